# SPDX-License-Identifier: Apache-2.0
"""A hundred malformed images through the real node: each costs its question alone."""

from __future__ import annotations

import array
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from robot import Robot, image_message, make_image, wait_until
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from svd_vlm_ros.srv import AskScene

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))  # no test folder is on the path
from malformed import compressed_messages, raw_messages

EACH = 50
Response = AskScene.Response


def ros_message(made: SimpleNamespace) -> Image | CompressedImage:
    fields = vars(made)
    data = array.array("B", fields.pop("data"))
    if "encoding" not in fields:
        return CompressedImage(header=Header(), data=data, format=fields["format"])
    fields["encoding"] = fields["encoding"].replace("\x00", "")  # DDS ends a text there
    return Image(header=Header(), data=data, **fields)


@pytest.fixture(scope="module")
def node_of_two_cameras(robot_of_module: Robot) -> Robot:
    robot_of_module.start(
        cameras=["raw", "packed"],
        **{
            "camera.raw.topic": "raw",
            "camera.packed.topic": "packed",
            "camera.packed.compressed": True,
        },
    )
    return robot_of_module


@pytest.mark.parametrize(
    ("camera", "make"), [("raw", raw_messages), ("packed", compressed_messages)]
)
def test_malformed_images_cost_their_question_alone(
    node_of_two_cameras: Robot, camera: str, make
) -> None:
    robot = node_of_two_cameras
    for why, made in make(EACH, seed=2):
        message = ros_message(made)
        if getattr(message, "encoding", "") == "rgb8" and why == "encoding":
            continue  # the zero byte was all that was wrong
        robot.show(message, camera)
        reply = robot.ask(camera=camera)
        assert reply.status == Response.NO_IMAGE, f"{why}: {reply.message}"
        assert f"The newest image of camera '{camera}' cannot be read: " in reply.message, why
        assert reply.message.isprintable()
        assert reply.answer == ""
    shown = robot.show(image_message(make_image(1), "good"), "raw")
    reply = robot.ask(camera="raw")
    assert (reply.status, reply.header) == (Response.OK, shown.header)


def test_a_flood_of_malformed_images(node_of_two_cameras: Robot) -> None:
    """Faster than anybody asks: nothing of them is converted, and nothing is answered from them."""
    robot = node_of_two_cameras
    publisher = robot.publisher("raw")
    before = robot.cameras["raw"].received
    for _, made in raw_messages(500, seed=3):
        message = ros_message(made)
        message.header.stamp = robot.stamp()
        publisher.publish(message)
    wait_until(lambda: robot.cameras["raw"].received > before)
    shown = robot.show(image_message(make_image(2), "good"), "raw")
    reply = robot.ask(camera="raw", choices=["yes", "no"])
    assert (reply.status, reply.header) == (Response.OK, shown.header)
