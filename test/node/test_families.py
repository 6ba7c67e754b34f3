# SPDX-License-Identifier: Apache-2.0
"""Service, action, facts and overlay with models of other families, over real topics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from robot import Robot, image_message, make_image, wait_until
from sensor_msgs.msg import Image

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.msg import FactChanged
from svd_vlm_ros.srv import AskScene

QUESTION = "is the path clear?"
OPTIONS: dict[str, Any] = {
    "precision": "fp32",
    "device": "cpu",
    "selector": "svd",
    "visual_tokens": 12,
    "position_policy": "contiguous",
}
LATCHED = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm", "llava_onevision"])
def test_the_node_runs_it(robot: Robot, family: str) -> None:
    model = f"random:tiny-{family}"
    robot.start(
        model=model,
        allow_random_model=True,
        max_new_tokens=6,
        request_timeout=60.0,
        facts=["clear"],
        description_period=0.5,
        **{"fact.clear.question": QUESTION},
        **OPTIONS,
    )
    image = make_image(1, 90, 160)
    engine = SceneEngine.load(model, **OPTIONS)
    scene = engine.see(image)

    changed: list[FactChanged] = []
    robot.other.create_subscription(FactChanged, "fact_changed", changed.append, LATCHED)
    drawn: list[Image] = []
    robot.other.create_subscription(Image, "perception/overlay", drawn.append, 1)
    shown = robot.show(image_message(image, "front"))

    reply = robot.ask(QUESTION)
    assert (reply.status, reply.message) == (AskScene.Response.OK, "")
    assert reply.header == shown.header
    assert reply.answer == engine.ask(scene, QUESTION, max_new_tokens=6).text
    counts = reply.stats.visual_tokens_kept, reply.stats.visual_tokens_total
    assert counts == (12, scene.tokens_total)
    chosen = robot.ask(QUESTION, choices=["yes", "no"])
    wanted = engine.choose(scene, QUESTION, ["yes", "no"])
    assert chosen.answer == wanted.text
    assert list(chosen.probabilities) == pytest.approx(wanted.probabilities, abs=1e-4)

    status, result = robot.stream("what is it?").end()
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, result.OK)
    assert result.answer == engine.ask(scene, "what is it?", max_new_tokens=6).text

    fact = wait_until(lambda: changed and changed[-1])
    assert (fact.fact.name, fact.fact.value) == ("clear", wanted.text)
    pixels = wait_until(lambda: drawn and drawn[-1])
    assert pixels.header.frame_id == "front"
    assert np.frombuffer(pixels.data, np.uint8).max() > 200

    (refused,) = robot.node.set_parameters([Parameter("selector", value="fastv")])
    assert not refused.successful
    assert "take one of" in refused.reason
    (taken,) = robot.node.set_parameters([Parameter("selector", value="grid")])
    assert taken.successful
