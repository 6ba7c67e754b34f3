# SPDX-License-Identifier: Apache-2.0
"""The cameras: quality of service, silence, change in mid-stream, simulated time."""

from __future__ import annotations

import array
from typing import Any

import cv2
import pytest
import rclpy
from rclpy.parameter import Parameter
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_profile_sensor_data,
)
from robot import Robot, image_message, make_image, reference_engine, wait_until
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.cameras.subscriptions import Camera, subscribe
from svd_vlm_ros.node.parameters.settings import CameraSettings
from svd_vlm_ros.srv import AskScene

OK = AskScene.Response.OK
BEST_EFFORT = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)


@pytest.fixture
def camera(robot: Robot) -> Camera:
    robot.start(wait=False, autostart=False)
    return Camera(robot.node, CameraSettings("front", "front/image"))


def test_why_silent_no_publisher(robot: Robot, camera: Camera) -> None:
    robot.publisher("rear/image")
    wait_until(lambda: robot.node.count_publishers("/rear/image"))
    assert "nobody publishes on /front/image" in camera.why_silent()
    assert "images are published on /rear/image" in camera.why_silent()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (CompressedImage, "set camera.front.compressed to true"),
        (String, "set camera.front.topic to a topic of images"),
    ],
)
def test_why_silent_other_type(robot: Robot, camera: Camera, kind: Any, named: str) -> None:
    context = rclpy.Context()  # one DDS participant cannot hold a topic with two types
    rclpy.init(context=context, domain_id=robot.context.get_domain_id())
    node = rclpy.create_node("careless", context=context)
    node.create_publisher(kind, "front/image", 1)
    wait_until(lambda: robot.node.count_publishers("/front/image"))
    assert named in camera.why_silent()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_why_silent_incompatible_qos(robot: Robot) -> None:
    robot.start(wait=False, autostart=False)
    camera = Camera(robot.node, CameraSettings("front", "front/image", reliability="reliable"))
    robot.publisher("front/image", Image, qos_profile_sensor_data)
    wait_until(lambda: robot.node.count_publishers("/front/image"))
    assert "incompatible QoS on /front/image: /other: " in camera.why_silent()
    assert "best effort publisher" in camera.why_silent().lower()
    assert "set camera.front.reliability to auto" in camera.why_silent()


def test_why_silent_nothing_wrong(robot: Robot, camera: Camera) -> None:
    robot.publisher("front/image")
    wait_until(lambda: robot.node.count_publishers("/front/image"))
    assert "no image comes on /front/image though /other publishes there" in camera.why_silent()
    assert "camera.front.reliability: reliable" in camera.why_silent(), "the publisher is reliable"


@pytest.mark.parametrize("reliability", list(QoSReliabilityPolicy)[1:3])
@pytest.mark.parametrize("durability", list(QoSDurabilityPolicy)[1:3])
def test_every_publisher_matches_and_only_the_newest_is_kept(
    robot: Robot, camera: Camera, reliability: Any, durability: Any
) -> None:
    qos = QoSProfile(depth=5, reliability=reliability, durability=durability)
    publisher = robot.publisher("front/image", Image, qos)
    wait_until(publisher.get_subscription_count)

    def publish(number: int) -> bool:
        message = image_message(make_image(number), f"number {number}")
        publisher.publish(message)
        latest = camera.latest
        return latest is not None and latest.message.header.frame_id == f"number {number}"

    for number in range(4):
        wait_until(lambda number=number: publish(number))
    assert camera.latest.number == camera.received


def test_reliability_follows_the_publishers(robot: Robot, camera: Camera) -> None:
    """Best effort until every publisher offers more; an image comes in each case."""
    assert not camera.reliable
    front = robot.publisher("front/image")
    wait_until(lambda: (camera.follow(), camera.reliable)[1])
    assert len([each for each in robot.node.subscriptions if each.topic_name == camera.topic]) == 1
    arrives(camera, front, 1)
    other = robot.other.create_publisher(Image, "front/image", BEST_EFFORT)
    wait_until(lambda: (camera.follow(), not camera.reliable)[1])
    arrives(camera, other, 2)
    arrives(camera, front, 3)
    robot.other.destroy_publisher(other)
    wait_until(lambda: (camera.follow(), camera.reliable)[1])
    arrives(camera, front, 4)


def arrives(camera: Camera, publisher: Any, number: int) -> None:
    def arrived() -> bool:
        publisher.publish(image_message(make_image(number), f"number {number}"))
        latest = camera.latest
        return latest is not None and latest.message.header.frame_id == f"number {number}"

    wait_until(arrived)


OVERRIDE = "qos_overrides./front/image.subscription"


def test_qos_overrides(robot: Robot) -> None:
    robot.start(
        wait=False,
        autostart=False,
        **{f"{OVERRIDE}.reliability": "best_effort", f"{OVERRIDE}.depth": 3},
    )
    camera = Camera(robot.node, CameraSettings("front", "front/image", reliability="reliable"))
    assert not camera.reliable, "the override goes first"
    assert camera.qos.depth == 3
    robot.publisher("front/image")
    wait_until(lambda: robot.node.count_publishers("/front/image"))
    camera.follow()
    assert not camera.reliable, "what was given stays"
    camera.destroy()
    again = Camera(robot.node, CameraSettings("front", "front/image"))
    assert again.qos.depth == 3, "configured anew"
    again.destroy()


@pytest.mark.parametrize(
    ("policy", "value", "named"),
    [
        ("reliability", "perhaps", "perhaps"),
        ("history", "keep_all", "history must be keep_last"),
        ("depth", 0, "depth of 1 or more"),
        ("depth", "deep", "depth"),
    ],
)
def test_impossible_qos_overrides(robot: Robot, policy: str, value: Any, named: str) -> None:
    robot.start(wait=False, autostart=False, **{f"{OVERRIDE}.{policy}": value})
    settings = [CameraSettings("side", "side/image"), CameraSettings("front", "front/image")]
    with pytest.raises(UserError, match=rf"The qos_overrides of camera 'front'.*{named}"):
        subscribe(robot.node, settings)
    assert not [each for each in robot.node.subscriptions if "image" in each.topic_name]


def test_a_slow_camera_is_not_silent_between_two_images(camera: Camera) -> None:
    now = camera.begun
    assert not camera.is_silent(now + 3.9)
    assert camera.is_silent(now + 4.1)
    camera._intervals.extend(10.0 for _ in range(7))
    assert not camera.is_silent(now + 29)
    assert camera.is_silent(now + 31)


def compressed_message(number: int, size: tuple[int, int]) -> CompressedImage:
    pixels = cv2.resize(make_image(number), size, interpolation=cv2.INTER_NEAREST)
    png = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    return CompressedImage(header=Header(), format="png", data=array.array("B", png))


def test_cameras_of_a_robot_with_a_namespace(robot: Robot) -> None:
    """Namespace, remapping, raw and compressed; sizes change; one ends and comes back."""
    robot.start(
        options={"namespace": "robot1", "cli_args": ["--ros-args", "-r", "front:=/rig/left"]},
        cameras=["front", "rear"],
        **{
            "camera.front.topic": "front",
            "camera.rear.topic": "rear/compressed",
            "camera.rear.compressed": True,
        },
    )
    cameras = robot.cameras
    assert cameras["front"].topic == "/rig/left"
    assert cameras["rear"].topic == "/robot1/rear/compressed"
    engine = reference_engine()

    def answered(message: Any, camera: str, pixels: Any) -> None:
        shown = robot.show(message, camera)
        reply = robot.ask(camera=camera, max_new_tokens=6)
        assert reply.status == OK, reply.message
        assert reply.header == shown.header
        assert (
            reply.answer == engine.ask(engine.see(pixels), "what is there?", max_new_tokens=6).text
        )

    first, second = make_image(1), make_image(2, 96, 128)
    answered(image_message(first), "front", first)
    answered(image_message(second[..., ::-1].copy(), encoding="bgr8"), "front", second)
    grey = make_image(3, 24, 32)[..., :1]
    answered(image_message(grey, encoding="mono8"), "front", grey.repeat(3, 2))
    for number, size in ((4, (64, 48)), (5, (128, 96))):
        pixels = cv2.resize(make_image(number), size, interpolation=cv2.INTER_NEAREST)
        answered(compressed_message(number, size), "rear", pixels)
    # The camera dies, and comes back with another quality of service.
    robot.other.destroy_publisher(robot._publishers.pop("rig/left"))
    wait_until(lambda: not robot.node.count_publishers("/rig/left"))
    robot.publisher("rig/left", Image, qos_profile_sensor_data)
    answered(image_message(first), "front", first)


def test_simulated_time_that_jumps_back(robot: Robot) -> None:
    """As a bag that is played in a loop: no answer is about an image from before the jump."""
    robot.start(max_image_age=5.0, use_sim_time=True)
    clock = robot.publisher("/clock", Clock, QoSProfile(depth=1))

    def set_clock(seconds: int) -> None:
        def arrived() -> bool:
            clock.publish(Clock(clock=rclpy.time.Time(seconds=seconds).to_msg()))
            return robot.node.get_clock().now().nanoseconds == seconds * 10**9

        wait_until(arrived)

    def show(seconds: int, number: int) -> Any:
        message = image_message(make_image(number))
        message.header.stamp = rclpy.time.Time(seconds=seconds).to_msg()
        return robot.show(message)

    set_clock(1000)
    shown = show(999, 1)
    reply = robot.ask()
    assert reply.status == OK, reply.message
    assert reply.header == shown.header
    assert reply.stats.image_age == pytest.approx(1.0)
    set_clock(1100)
    assert robot.ask().status == AskScene.Response.STALE_IMAGE
    set_clock(50)
    assert robot.cameras["camera"].latest is None, "999 s lie in the future now"
    assert robot.ask().status == AskScene.Response.NO_IMAGE
    shown = show(49, 2)
    reply = robot.ask()
    assert (reply.status, reply.header) == (OK, shown.header)


def test_lost_images_are_counted(robot: Robot) -> None:
    """Best effort, and larger than what Fast DDS shares: some are lost beside a busy thread."""
    robot.start(wait=False, autostart=False)
    camera = Camera(robot.node, CameraSettings("front", "front/image", reliability="best_effort"))
    camera._count_lost(type("Event", (), {"total_count_change": 3})())
    assert camera.lost == 3


def test_parameters_of_cameras_are_read_only_if_ros_says_so(robot: Robot) -> None:
    robot.start(wait=False, autostart=False)
    camera = Camera(robot.node, CameraSettings("front", "front/image"))
    (result,) = robot.node.set_parameters([Parameter(f"{OVERRIDE}.depth", value=7)])
    assert not result.successful
    camera.destroy()
