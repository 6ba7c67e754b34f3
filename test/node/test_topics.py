# SPDX-License-Identifier: Apache-2.0
"""What the node publishes, and what it says of its cameras."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.parameter import Parameter
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_profile_sensor_data,
)
from robot import Robot, image_message, picture, reference_engine, wait_until
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.msg import SceneDescription
from svd_vlm_ros.node import cameras
from svd_vlm_ros.node.cameras import Camera
from svd_vlm_ros.node.parameters import CameraSettings
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
        shown = robot.show(image_message(picture(number), camera), camera)
        wait_until(lambda shown=shown: [said for said in got if said.header == shown.header])
        said = next(said for said in got if said.header == shown.header)
        assert said.camera == camera
        wanted = engine.ask(engine.see(picture(number)), "what is the ground?", max_new_tokens=8)
        assert said.text == wanted.text
        assert said.confidence == pytest.approx(wanted.confidence, rel=1e-4)
        assert said.stats.visual_tokens_kept == 192
    # One description a message, however many periods pass; `show` may send one more than once.
    assert robot.ask(camera="rear").status == AskScene.Response.OK
    assert len(got) <= sum(camera.received for camera in robot.node.cameras.values())
    robot.node.set_parameters([Parameter("description_period", value=0.0)])
    assert robot.ask(camera="rear").status == AskScene.Response.OK
    told = len(got)
    robot.show(image_message(picture(9), "front"), "front")
    assert robot.ask().status == AskScene.Response.OK
    assert len(got) == told, "turned off"


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
    robot.show(image_message(picture(1)))
    assert began.wait(60)
    assert robot.ask().status == AskScene.Response.OK
    assert reasons[0] == "interrupted"
    assert not got


def test_descriptions_after_deactivate(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one was under way, and another camera's was waiting."""
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
        robot.show(image_message(picture(1), camera), camera)
    assert began.wait(60)
    wait_until(lambda: robot.node.inference.waiting() == 1)
    robot.node.trigger_deactivate()
    release.set()
    robot.node.trigger_activate()
    wait_until(lambda: {said.camera for said in got} == {"front", "rear"})


def test_random_models_do_not_describe(robot: Robot) -> None:
    robot.start(description_period=0.05, allow_random_model=False)
    got = listen(robot, SceneDescription, "scene_description")
    robot.show(image_message(picture(1)))
    assert robot.ask().status == AskScene.Response.ERROR
    assert not got


def test_diagnostics(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "SILENT_SECONDS", 0.5)
    robot.start()
    got = listen(robot, DiagnosticArray, "/diagnostics")

    def status(name: str) -> DiagnosticStatus | None:
        found = [one for array in got[-1:] for one in array.status if one.name == name]
        return found[0] if found else None

    def facts(name: str) -> dict[str, str]:
        found = status(name)
        return {pair.key: pair.value for pair in found.values} if found else {}

    wait_until(lambda: facts("perception: model").get("lifecycle state") == "active")
    assert status("perception: model").level == DiagnosticStatus.OK
    assert status("perception: model").hardware_id == "cpu"
    assert facts("perception: model")["visual tokens"] == "192 of 576"
    silent = wait_until(
        lambda: (
            (found := status("perception: camera camera"))
            and found.level == DiagnosticStatus.WARN
            and found
        )
    )
    assert "nobody publishes on /image" in silent.message
    robot.show(image_message(picture(1)))
    assert robot.ask().status == AskScene.Response.OK
    assert robot.ask(max_image_age=1e-6).status == AskScene.Response.STALE_IMAGE
    wait_until(lambda: facts("perception: requests").get("refused") == "1")
    assert facts("perception: requests")["answered"] == "1"
    assert status("perception: requests").level == DiagnosticStatus.WARN
    assert "old by its stamp" in status("perception: requests").message
    assert int(facts("perception: camera camera")["pictures"]) >= 1


@pytest.fixture
def camera(robot: Robot) -> Camera:
    robot.start(wait=False, autostart=False)
    return Camera(robot.node, CameraSettings("front", "front/image"))


def test_why_silent_no_publisher(robot: Robot, camera: Camera) -> None:
    robot.publisher("rear/image")
    wait_until(lambda: robot.node.count_publishers("/rear/image"))
    assert "nobody publishes on /front/image" in camera.why_silent()
    assert "pictures are published on /rear/image" in camera.why_silent()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (CompressedImage, "set camera.front.compressed to true"),
        (String, "set camera.front.topic to a topic of pictures"),
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
    assert "no picture comes on /front/image though /other publishes there" in camera.why_silent()
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
        message = image_message(picture(number), f"number {number}")
        publisher.publish(message)
        latest = camera.latest
        return latest is not None and latest.message.header.frame_id == f"number {number}"

    for number in range(4):
        wait_until(lambda number=number: publish(number))
    assert camera.latest.number == camera.received
