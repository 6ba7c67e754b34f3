# SPDX-License-Identifier: Apache-2.0
"""The topic ~/overlay: what was seen and answered, and no work if nobody looks."""

from __future__ import annotations

import numpy as np
import pytest
from robot import Robot, image_message, make_image, wait_until
from sensor_msgs.msg import Image

from svd_vlm_ros.node.interfaces import overlay
from svd_vlm_ros.srv import AskScene


def test_overlay(robot: Robot) -> None:
    robot.start(visual_tokens=32)
    shown = robot.show(image_message(make_image(1), "front"))
    assert robot.ask().status == AskScene.Response.OK
    assert robot.node._overlay._thread is None, "nobody looks: nothing was begun"

    got: list[Image] = []
    listener = robot.other.create_subscription(Image, "perception/overlay", got.append, 1)
    wait_until(lambda: robot.node._overlay.wanted)
    reply = robot.ask(choices=["yes", "no"])
    assert reply.status == AskScene.Response.OK
    made = wait_until(lambda: got and got[-1])
    assert made.header == shown.header
    assert (made.encoding, made.width) == ("rgb8", 640)
    pixels = np.frombuffer(made.data, np.uint8).reshape(made.height, made.width, 3)
    seen, band = pixels[:480], pixels[480:]
    assert band.size, "question and answer stand below"
    assert band.max() > 200, "in light letters"
    bright = (seen.mean(2) > 0.7 * np.kron(make_image(1), np.ones((10, 10, 1))).mean(2)).mean()
    assert 0.0 < bright < 0.5, "32 of 576 patches are kept, the rest is dimmed"

    robot.other.destroy_subscription(listener)
    wait_until(lambda: not robot.node._overlay.wanted)
    drawn = robot.node._overlay.drawn
    assert robot.ask().status == AskScene.Response.OK
    assert robot.node._overlay.drawn == drawn


def test_what_cannot_be_drawn_costs_no_answer(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.start()
    robot.show(image_message(make_image(1)))
    got: list[Image] = []
    robot.other.create_subscription(Image, "perception/overlay", got.append, 1)
    wait_until(lambda: robot.node._overlay.wanted)
    with monkeypatch.context() as patch:
        patch.setattr(overlay, "draw_overlay", lambda *_: 1 / 0)
        assert robot.ask().status == AskScene.Response.OK
    wait_until(lambda: robot.ask().status == AskScene.Response.OK and got)


def test_large_images_are_made_smaller() -> None:
    message = image_message(np.zeros((1080, 2560, 3), np.uint8))
    made = overlay.draw(message, [(0.0, 0.0, 1280.0, 1080.0)], "", "", 10**7)
    assert (made.width, made.height) == (1280, 540)
