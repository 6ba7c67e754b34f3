# SPDX-License-Identifier: Apache-2.0
"""The cameras: one subscription each, of which only the newest picture is kept, as it came.

Best effort with depth 1, the default, matches publishers of either reliability and lets no old
pictures queue up. The callback keeps a reference: pictures that nobody asks about cost no more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidTopicNameException
from rclpy.impl.implementation_singleton import rclpy_implementation as rcl
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
)
from sensor_msgs.msg import CompressedImage, Image

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.parameters import CameraSettings
from svd_vlm_ros.node.requests import Frame

if TYPE_CHECKING:
    from rclpy.node import Node

SILENT_SECONDS = 5.0  # without a picture for so long, a camera is called silent
_TYPE_NAMES = {True: "sensor_msgs/msg/CompressedImage", False: "sensor_msgs/msg/Image"}


def quality_of_service(reliable: bool) -> QoSProfile:
    """Sensor data of which only the newest counts."""
    reliability = QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT
    return QoSProfile(
        reliability=reliability,
        durability=QoSDurabilityPolicy.VOLATILE,
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=1,
    )


class Camera:
    """One camera's subscription and its newest picture.

    `latest` is replaced as a whole by the executor's thread and may be read by any other.
    """

    def __init__(self, node: Node, settings: CameraSettings) -> None:
        self.name = settings.name
        self.compressed = settings.compressed
        self.reliable = settings.reliable
        self.latest: Frame | None = None
        self.begun = time.monotonic()
        self._node = node
        self._count = 0
        self._subscription = node.create_subscription(
            CompressedImage if settings.compressed else Image,
            settings.topic,
            self._keep,
            quality_of_service(settings.reliable),
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        self.topic: str = self._subscription.topic_name

    def _keep(self, message: Any) -> None:
        """The subscription's callback: no conversion, no copy, no waiting."""
        self._count += 1
        self.latest = Frame(message, time.monotonic(), self._count)

    def destroy(self) -> None:
        """End the subscription and let the last picture go."""
        self._node.destroy_subscription(self._subscription)
        self.latest = None

    @property
    def received(self) -> int:
        """How many pictures have come."""
        return self._count

    def silent_for(self, now: float) -> float:
        """Seconds since the last picture came, or since the subscription where none has."""
        latest = self.latest
        return now - (latest.arrival if latest else self.begun)

    def why_silent(self) -> str:
        """One sentence why no picture comes, judged by the ROS graph, and what to do."""
        name = f"Camera '{self.name}'"
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return (
                f"{name}: nobody publishes on {self.topic}: start the camera, or set "
                f"camera.{self.name}.topic "
                f"({_topics_seen(self._node, _TYPE_NAMES[self.compressed])})."
            )
        fitting = [info for info in publishers if info.topic_type == _TYPE_NAMES[self.compressed]]
        if not fitting:
            found = ", ".join(sorted({info.topic_type for info in publishers}))
            advice = (
                f"set camera.{self.name}.compressed to {str(not self.compressed).lower()}"
                if found == _TYPE_NAMES[not self.compressed]
                else f"set camera.{self.name}.topic to a topic of pictures"
            )
            wanted = _TYPE_NAMES[self.compressed]
            return f"{name}: {self.topic} carries {found}, not {wanted}: {advice}."
        clashes = list(_clashes(fitting, quality_of_service(self.reliable)))
        if len(clashes) == len(fitting):
            reasons = "; ".join(clashes)
            advice = f"set camera.{self.name}.reliable to {str(not self.reliable).lower()}"
            return f"{name}: incompatible QoS on {self.topic}: {reasons}: {advice}."
        advice = "check that the camera delivers, and that the network carries pictures of its size"
        if not self.reliable and all(_is_reliable(info) for info in fitting):
            advice += f"; camera.{self.name}.reliable has lost parts sent again"
        return (
            f"{name}: no picture comes on {self.topic} though {len(fitting)} publisher(s) fit: "
            f"{advice}."
        )


def subscribe(node: Node, wanted: Iterable[CameraSettings]) -> dict[str, Camera]:
    """A camera for each of the settings, by name. Raises `UserError` on an impossible topic."""
    cameras: dict[str, Camera] = {}
    for settings in wanted:
        try:
            cameras[settings.name] = Camera(node, settings)
        except (InvalidTopicNameException, rcl.RCLError) as error:  # or it has another type
            for made in cameras.values():
                made.destroy()
            raise UserError(
                f"Parameter camera.{settings.name}.topic is '{settings.topic}', to which the node "
                f"cannot subscribe: {' '.join(str(error).split())}"
            ) from error
    return cameras


def _is_reliable(info: Any) -> bool:
    return bool(info.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE)


def _clashes(publishers: Iterable[Any], wanted: QoSProfile) -> Iterable[str]:
    """Each publisher whose offered QoS our subscription cannot accept, with the policy."""
    for info in publishers:
        compatibility, reason = qos_check_compatible(info.qos_profile, wanted)
        if compatibility == QoSCompatibility.ERROR:
            yield f"{info.node_namespace.rstrip('/')}/{info.node_name}: {reason.strip()}"


def _topics_seen(node: Node, wanted: str) -> str:
    topics = [
        topic
        for topic, types in node.get_topic_names_and_types()
        if wanted in types and node.count_publishers(topic)
    ]
    return (
        f"pictures are published on {', '.join(topics[:5])}"
        if topics
        else "no topic carries pictures"
    )
