# SPDX-License-Identifier: Apache-2.0
"""`facts_to_nav.py`: points with the image's stamp while the path is blocked, else none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from robot import Robot, image_message, wait_until
from sensor_msgs.msg import PointCloud2

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import clear_path_state, sample_scene

QUESTION = "is the path clear?"
SEEDS = range(30_000_000, 30_000_100)  # scenes that training did not see
FACTS = {"facts": ["path"], "fact.path.question": QUESTION, "fact_frames": 1}


def certain_image(path_clear: bool) -> np.ndarray:
    """A scene whose path is clear, or blocked, about which scout is right and certain."""
    engine = SceneEngine.load("scout", precision="fp32")
    for scene in map(sample_scene, SEEDS):
        if clear_path_state(scene) and scene.path_clear == path_clear:
            image = render(scene)
            answer = engine.choose(engine.see(image), QUESTION, ["yes", "no"])
            if (answer.text == "yes") == path_clear and answer.confidence > 0.95:
                return image
    pytest.fail("scout is certain of none of the scenes")


def points(cloud: PointCloud2) -> np.ndarray:
    """The cloud's x, y and z, [n, 3]."""
    assert [(field.name, field.offset, field.datatype) for field in cloud.fields] == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
    ]
    assert (cloud.point_step, cloud.row_step) == (12, 12 * cloud.width)
    return np.frombuffer(bytes(cloud.data), "<f4").reshape(cloud.width, 3)


def test_a_blocked_path_is_an_obstacle(
    scout: Callable[..., Robot], start: Callable[..., subprocess.Popen[str]]
) -> None:
    blocked, clear = certain_image(False), certain_image(True)
    robot = scout(description_period=0.1, max_new_tokens=2, change_threshold=0.0, **FACTS)
    clouds: list[PointCloud2] = []
    robot.other.create_subscription(PointCloud2, "fact_obstacle", clouds.append, 10)
    start("facts_to_nav.py", "--ros-args", "-p", "distance:=2.0", "-p", "target_frame:=nowhere")
    wait_until(lambda: robot.other.count_publishers("fact_obstacle"))
    wait_until(lambda: robot.other.count_subscribers("scene_description") == 1)
    for image, count in ((blocked, 13), (clear, 0), (blocked, 13)):
        clouds.clear()
        shown: list[Any] = []

        def heard(image: np.ndarray = image, count: int = count, shown: list = shown) -> bool:
            shown.append(robot.show(image_message(image, "eye")).header)
            return any(cloud.width == count for cloud in clouds)

        wait_until(heard)
        cloud = next(cloud for cloud in clouds if cloud.width == count)
        assert cloud.header in shown, "of the image that says so, in the camera's frame"
        found = points(cloud)
        assert set(found[:, 2]) <= {2.0}
        assert set(found[:, 1]) <= {0.0}
    assert found[:, 0].min() == pytest.approx(-0.3)
    assert found[:, 0].max() == pytest.approx(0.3)


def test_a_repeated_description_is_true_as_of_now(
    example: Callable[[str], Any], ros_domain: int
) -> None:
    import rclpy

    from svd_vlm_ros.msg import SceneDescription, SceneFact

    rclpy.init()
    node = example("facts_to_nav").FactsToNav()
    clouds: list[PointCloud2] = []
    node.clouds.publish = clouds.append
    try:
        message = SceneDescription(facts=[SceneFact(name="path", value="no")])
        message.header.stamp.sec = 5
        node.see(message)
        assert clouds[-1].header.stamp.sec == 5
        message.stats.scene_reused = True
        before = node.get_clock().now().to_msg()
        node.see(message)
        assert clouds[-1].header.stamp.sec >= before.sec > 5
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def test_turned_and_moved_as_a_transform_says(example: Callable[[str], Any]) -> None:
    """An optical frame on a robot: what is ahead of the camera (z) is ahead of the robot (x)."""
    transform = example("facts_to_nav").transform
    optical = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
    found = Transform(rotation=optical, translation=Vector3(x=0.2, y=0.0, z=1.0))
    moved = transform(found, np.array([[0.0, 0.0, 2.0], [0.3, 0.0, 2.0], [0.0, 0.5, 1.0]]))
    np.testing.assert_allclose(
        moved, [[2.2, 0.0, 1.0], [2.2, -0.3, 1.0], [1.2, 0.0, 0.5]], atol=1e-12
    )


def test_in_the_target_frame_if_tf_knows_the_way(
    scout: Callable[..., Robot], start: Callable[..., subprocess.Popen[str]]
) -> None:
    tf2_ros = pytest.importorskip("tf2_ros", reason="there is no wheel of tf2: needs a ROS")
    blocked = certain_image(False)
    robot = scout(description_period=0.1, max_new_tokens=2, change_threshold=0.0, **FACTS)
    clouds: list[PointCloud2] = []
    robot.other.create_subscription(PointCloud2, "fact_obstacle", clouds.append, 10)
    way = TransformStamped(child_frame_id="eye")
    way.header.frame_id = "base_link"
    way.header.stamp = robot.stamp()
    way.transform.rotation = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
    sender = tf2_ros.StaticTransformBroadcaster(robot.other)
    sender.sendTransform(way)
    start("facts_to_nav.py")

    def arrived() -> list[PointCloud2]:
        robot.show(image_message(blocked, "eye"))
        return [cloud for cloud in clouds if cloud.header.frame_id == "base_link"]

    found = points(wait_until(arrived)[-1])
    assert set(found[:, 0]) == {1.0}
