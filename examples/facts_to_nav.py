# SPDX-License-Identifier: Apache-2.0
"""A standing question as an obstacle: a row of points ahead while the path is blocked, else none.

`fact_obstacle` (PointCloud2) has the stamp of the image that says so, and is in `target_frame` if
tf2 is installed and knows the way there, else in the camera's frame. An obstacle layer of Nav2 can
observe it; a behaviour tree needs no more than `fact_changed`, which is framed and latched, too.
"""

import array
import contextlib
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import PointCloud2, PointField

from svd_vlm_ros.msg import SceneDescription

try:
    import tf2_ros
except ImportError:
    tf2_ros = None
FIELDS = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate("xyz")]


def transform(found: Any, points: np.ndarray) -> np.ndarray:
    """Points [n, 3] turned and moved by a geometry_msgs/Transform."""
    q, shift = found.rotation, found.translation
    across = 2.0 * np.cross([q.x, q.y, q.z], points)
    turned = points + q.w * across + np.cross([q.x, q.y, q.z], across)
    return turned + np.array([shift.x, shift.y, shift.z])


class FactsToNav(Node):
    """Hears `scene_description`, and says of each image whether there is an obstacle."""

    def __init__(self) -> None:
        super().__init__("facts_to_nav")
        self.fact = self.declare_parameter("fact", "path").value
        self.blocked = self.declare_parameter("blocked_value", "no").value  # "is the path clear?"
        self.target = self.declare_parameter("target_frame", "base_link").value
        distance = self.declare_parameter("distance", 1.0).value  # m, along the camera's axis
        across = np.linspace(-0.3, 0.3, 13)  # m
        # The camera's optical frame (REP 103): x to the right, y down, z ahead.
        self.row = np.stack([across, np.zeros(13), np.full(13, distance)], axis=1)
        self.tf: Any = tf2_ros and tf2_ros.Buffer()
        self.listener = tf2_ros and tf2_ros.TransformListener(self.tf, self)
        self.clouds = self.create_publisher(PointCloud2, "fact_obstacle", 10)
        self.create_subscription(SceneDescription, "scene_description", self.see, 10)

    def see(self, message: SceneDescription) -> None:
        """Publish what one image says."""
        header = message.header
        if message.stats.scene_reused:  # the newest image looks like that one: true as of now
            header.stamp = self.get_clock().now().to_msg()
        for fact in (fact for fact in message.facts if fact.name == self.fact):
            points = self.row if fact.value == self.blocked else self.row[:0]
            if self.tf:
                try:
                    stamp = Time.from_msg(header.stamp)
                    found = self.tf.lookup_transform(self.target, header.frame_id, stamp)
                    points, header.frame_id = transform(found.transform, points), self.target
                except tf2_ros.TransformException as error:
                    self.get_logger().warning(f"In the camera's frame, as there is no way: {error}")
            cloud = PointCloud2(header=header, fields=FIELDS, height=1, width=len(points))
            cloud.point_step, cloud.row_step, cloud.is_dense = 12, 12 * len(points), True
            cloud.data = array.array("B", points.astype("<f4").tobytes())
            self.clouds.publish(cloud)


if __name__ == "__main__":
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(FactsToNav())
