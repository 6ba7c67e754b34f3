# SPDX-License-Identifier: Apache-2.0
"""Images that are not what they seem, through the real node: distances, and damaged JPEGs."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from robot import Robot, image_message, make_image, wait_until
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from svd_vlm_ros.srv import AskScene

Response = AskScene.Response
DEPTH_HEADER = bytes(12)  # what compressed_depth_image_transport puts before its PNG


@pytest.fixture(scope="module")
def robot(robot_of_module: Robot) -> Robot:
    robot_of_module.start(
        cameras=["raw", "packed"],
        **{
            "camera.raw.topic": "raw",
            "camera.packed.topic": "packed",
            "camera.packed.compressed": True,
        },
    )
    return robot_of_module


def compressed(data: bytes, label: str) -> CompressedImage:
    return CompressedImage(header=Header(), format=label, data=array.array("B", data))


def encoded(ending: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(ending, pixels, options)[1].tobytes()


DISTANCES = make_image(1)[..., 0].astype(np.uint16) * 16
DEPTH = encoded(".png", DISTANCES)
JPEG = encoded(".jpg", cv2.resize(make_image(2), (320, 240))[..., ::-1])


@pytest.mark.parametrize(
    ("data", "label", "named"),
    [
        (DEPTH, "16UC1; png compressed ", "holds plain numbers such as distances"),
        (DEPTH, "16UC1; compressedDepth png", "holds plain numbers such as distances"),
        (DEPTH_HEADER + DEPTH, "16UC1; compressedDepth png", "holds plain numbers"),
        (DEPTH_HEADER + bytes(99), "32FC1; compressedDepth rvl", "holds plain numbers"),
        (encoded(".png", DISTANCES.astype(np.uint8)), "16uc1; png compressed ", "holds plain"),
        (DEPTH, "png", "does not say whether its 16-bit grey is brightness or distances"),
        (DEPTH, "", "publish it as 'mono16; png compressed'"),
        (DEPTH, "rgb8; png compressed bgr8", "publish it as 'mono16; png compressed'"),
    ],
)
def test_distances_are_no_colours(robot: Robot, data: bytes, label: str, named: str) -> None:
    robot.show(compressed(data, label), "packed")
    reply = robot.ask(camera="packed")
    assert reply.status == Response.NO_IMAGE, reply.answer
    assert named in reply.message


def test_brightness_in_16_bits_is_answered(robot: Robot) -> None:
    shown = robot.show(compressed(DEPTH, "mono16; png compressed "), "packed")
    reply = robot.ask(camera="packed")
    assert (reply.status, reply.header) == (Response.OK, shown.header)


MIDDLE = len(JPEG) // 2
DAMAGED = {
    "half": JPEG[:MIDDLE] + b"\xff\xd9",
    "hole": JPEG[:MIDDLE] + JPEG[MIDDLE + 200 :],
    "repeated": JPEG[:MIDDLE] + JPEG[MIDDLE - 200 :],
}


@pytest.mark.parametrize("kind", list(DAMAGED))
def test_a_damaged_jpeg_is_no_image(robot: Robot, kind: str) -> None:
    robot.show(compressed(DAMAGED[kind], "rgb8; jpeg compressed bgr8"), "packed")
    reply = robot.ask(camera="packed")
    assert reply.status == Response.NO_IMAGE, f"{kind}: {reply.answer}"
    assert "it is a damaged JPEG (" in reply.message
    assert "allow_damaged_images" in reply.message


def test_damaged_images_are_counted_and_may_be_allowed(robot: Robot) -> None:
    got: list = []
    robot.other.create_subscription(DiagnosticArray, "/diagnostics", got.append, 10)

    def count() -> int:
        if not got:
            return -1
        status = next(s for s in got[-1].status if s.name.endswith("camera packed"))
        return int({v.key: v.value for v in status.values}["damaged, of those looked at"])

    wait_until(lambda: count() >= 0)
    before = count()
    shown = robot.show(compressed(DAMAGED["half"], "jpeg"), "packed")
    for _ in range(2):
        assert robot.ask(camera="packed").status == Response.NO_IMAGE
    wait_until(lambda: count() == before + 1)
    robot.node.set_parameters([Parameter("allow_damaged_images", value=True)])
    reply = robot.ask(camera="packed")
    assert (reply.status, reply.header) == (Response.OK, shown.header)
    robot.node.set_parameters([Parameter("allow_damaged_images", value=False)])
    assert robot.ask(camera="packed").status == Response.NO_IMAGE, "not from what was kept"


@pytest.mark.parametrize("name", ["8UC3", "BGR8", "8UC1", "nv12", "nv24", "rgb16", "bayer_rggb16"])
def test_encodings_that_drivers_use(robot: Robot, name: str) -> None:
    pixels = make_image(3)
    height, width = pixels.shape[:2]
    if name == "8UC1":
        pixels = pixels[..., :1]
    elif name.startswith("nv"):
        rows = height * 3 // 2 if name == "nv12" else height * 3
        pixels = np.full((rows, width, 1), 128, np.uint8)
    elif name == "rgb16":
        pixels = pixels.astype(np.uint16) * 257
    elif name.startswith("bayer"):
        pixels = pixels[..., :1].astype(np.uint16) * 257
    message = image_message(np.ascontiguousarray(pixels), encoding=name)
    message.height = height
    shown = robot.show(message, "raw")
    reply = robot.ask(camera="raw")
    assert (reply.status, reply.header) == (Response.OK, shown.header), reply.message


def test_webp_is_answered(robot: Robot) -> None:
    shown = robot.show(compressed(encoded(".webp", make_image(4)), "webp"), "packed")
    reply = robot.ask(camera="packed")
    assert (reply.status, reply.header) == (Response.OK, shown.header), reply.message
    robot.show(compressed(encoded(".webp", make_image(4))[:-9], "webp"), "packed")
    assert robot.ask(camera="packed").status == Response.NO_IMAGE
