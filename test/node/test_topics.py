# SPDX-License-Identifier: Apache-2.0
"""The topic `scene_description`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from rclpy.parameter import Parameter
from robot import Robot, image_message, make_image, reference_engine, wait_until

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.msg import SceneDescription
from svd_vlm_ros.srv import AskScene


def listen(robot: Robot, kind: Any, topic: str) -> list:
    got: list = []
    robot.other.create_subscription(kind, topic, got.append, 10)
    return got


def test_descriptions_of_each_camera(robot: Robot) -> None:
    robot.start(
        description_period=0.1,
        description_prompt="what is the ground?",
        max_new_tokens=8,
        cameras=["front", "rear"],
        **{"camera.front.topic": "front/image", "camera.rear.topic": "rear/image"},
    )
    got = listen(robot, SceneDescription, "scene_description")
    wait_until(lambda: robot.other.count_publishers("/scene_description"))
    engine = reference_engine()
    for number, camera in enumerate(("front", "rear", "front")):
        shown = robot.show(image_message(make_image(number), camera), camera)
        wait_until(lambda shown=shown: [one for one in got if one.header == shown.header])
        message = next(one for one in got if one.header == shown.header)
        assert message.camera == camera
        wanted = engine.ask(engine.see(make_image(number)), "what is the ground?", max_new_tokens=8)
        assert message.text == wanted.text
        assert message.confidence == pytest.approx(wanted.confidence, rel=1e-4)
        assert message.stats.visual_tokens_kept == 192
    # One description a message, however many periods pass; `show` may send one more than once.
    assert robot.ask(camera="rear").status == AskScene.Response.OK
    assert len(got) <= sum(camera.received for camera in robot.cameras.values())
    robot.node.set_parameters([Parameter("description_period", value=0.0)])
    assert robot.ask(camera="rear").status == AskScene.Response.OK
    published = len(got)
    robot.show(image_message(make_image(9), "front"), "front")
    assert robot.ask().status == AskScene.Response.OK
    assert len(got) == published, "turned off"


def test_a_question_goes_before_a_description(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()
    reasons: list[str | None] = []
    describe = SceneEngine.describe

    def endless(
        engine: SceneEngine, scene: Any, *args: Any, should_stop: Any, **options: Any
    ) -> Any:
        began.set()
        reasons.append(wait_until(should_stop))
        return describe(engine, scene, *args, should_stop=should_stop, **options)

    monkeypatch.setattr(SceneEngine, "describe", endless)
    robot.start(description_period=0.05)
    got = listen(robot, SceneDescription, "scene_description")
    robot.show(image_message(make_image(1)))
    assert began.wait(60)
    assert robot.ask().status == AskScene.Response.OK
    assert reasons[0] == "interrupted"
    assert not got


def test_descriptions_after_deactivate(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if one was under way, and another camera's was waiting."""
    began, release = threading.Event(), threading.Event()
    describe = SceneEngine.describe

    def held(*args: Any, **options: Any) -> Any:
        began.set()
        release.wait(60)
        return describe(*args, **options)

    monkeypatch.setattr(SceneEngine, "describe", held)
    topics = {"camera.front.topic": "front/image", "camera.rear.topic": "rear/image"}
    robot.start(description_period=0.05, cameras=["front", "rear"], **topics)
    got = listen(robot, SceneDescription, "scene_description")
    for camera in ("front", "rear"):
        robot.show(image_message(make_image(1), camera), camera)
    assert began.wait(60)
    wait_until(lambda: robot.worker.queue.waiting() == 1)
    robot.node.trigger_deactivate()
    release.set()
    robot.node.trigger_activate()
    wait_until(lambda: {one.camera for one in got} == {"front", "rear"})


def test_random_models_do_not_describe(robot: Robot) -> None:
    robot.start(description_period=0.05, allow_random_model=False)
    got = listen(robot, SceneDescription, "scene_description")
    robot.show(image_message(make_image(1)))
    assert robot.ask().status == AskScene.Response.ERROR
    assert not got
