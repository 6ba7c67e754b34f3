# SPDX-License-Identifier: Apache-2.0
"""`scout_camera`: its images are those of the drive, and its truth is theirs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, qos_profile_sensor_data
from robot import Robot, Spinner, wait_until
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from svd_vlm_ros.node.cameras.conversion import to_rgb
from svd_vlm_ros.scout.camera_node import ScoutCamera
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import truth


@pytest.fixture
def camera(robot: Robot, request: pytest.FixtureRequest):
    given = {"rate": 30.0, "seed": 3, "start_time": 12.5, **getattr(request, "param", {})}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = ScoutCamera(context=robot.context, parameter_overrides=overrides)
    spinner = Spinner(robot.context)
    spinner.start(node)
    yield node
    spinner.stop()
    node.destroy_node()


def stamp_of(record: dict) -> tuple[int, int]:
    return record["stamp"]["sec"], record["stamp"]["nanosec"]


@pytest.mark.parametrize("camera", [{"compressed": True, "frame_id": "eye"}], indirect=True)
def test_images_and_their_truth(robot: Robot, camera: ScoutCamera) -> None:
    truths: dict = {}
    images: list[Image] = []
    files: list[CompressedImage] = []
    latched = QoSProfile(depth=100, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)

    def take_truth(message: String) -> None:
        record = json.loads(message.data)
        truths[stamp_of(record)] = record

    robot.other.create_subscription(String, "scout_truth", take_truth, latched)
    robot.other.create_subscription(Image, "image", images.append, qos_profile_sensor_data)
    robot.other.create_subscription(
        CompressedImage, "image/compressed", files.append, qos_profile_sensor_data
    )

    def with_truth(messages: list) -> list:
        keys = [(one.header.stamp.sec, one.header.stamp.nanosec) for one in messages]
        return [
            (one, truths[key]) for one, key in zip(messages, keys, strict=True) if key in truths
        ]

    wait_until(lambda: len(with_truth(list(images))) >= 3 and with_truth(list(files)))
    seen = with_truth(list(images))
    for message, record in (seen[0], seen[-1]):
        assert message.header.frame_id == record["frame_id"] == "eye"
        assert record["seed"] == 3
        assert record["t"] >= 12.5
        scene = drive(record["t"], record["seed"])
        np.testing.assert_array_equal(to_rgb(message), render(scene))
        assert record["scene"] == json.loads(json.dumps(truth(scene)))
    assert seen[0][1]["t"] != seen[-1][1]["t"]
    message, record = with_truth(list(files))[0]
    difference = to_rgb(message).astype(int) - render(drive(record["t"], record["seed"]))
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("camera", [{"frozen": True}], indirect=True)
def test_frozen(robot: Robot, camera: ScoutCamera) -> None:
    images: list[Image] = []
    robot.other.create_subscription(Image, "image", images.append, qos_profile_sensor_data)
    wait_until(lambda: len(images) >= 3)
    assert len({image.header.stamp.nanosec for image in images[:3]}) == 3
    for image in images[:3]:
        np.testing.assert_array_equal(to_rgb(image), render(drive(12.5, 3)))


def test_the_truth_is_latched(robot: Robot, camera: ScoutCamera) -> None:
    early: list[String] = []
    late: list[String] = []
    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    robot.other.create_subscription(String, "scout_truth", early.append, latched)
    wait_until(lambda: early)
    camera.destroy_timer(next(iter(camera.timers)))
    robot.other.create_subscription(String, "scout_truth", late.append, latched)
    wait_until(lambda: late)
