# SPDX-License-Identifier: Apache-2.0
"""Why no image comes: one sentence of the ROS graph, its publishers, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from rclpy.qos import QoSCompatibility, QoSProfile, QoSReliabilityPolicy, qos_check_compatible

if TYPE_CHECKING:
    from rclpy.node import Node

TYPE_NAMES = {True: "sensor_msgs/msg/CompressedImage", False: "sensor_msgs/msg/Image"}
_SHOWN = 5  # publishers or topics that a sentence names


class Subscribed(Protocol):
    """What a sentence needs to know of a camera; see `subscriptions.Camera`."""

    name: str
    topic: str
    compressed: bool

    @property
    def qos(self) -> QoSProfile: ...  # noqa: D102
    @property
    def follows(self) -> bool: ...  # noqa: D102


def why_silent(node: Node, camera: Subscribed) -> str:
    """One sentence about a camera of which no image comes."""
    name, topic, wanted = f"Camera '{camera.name}'", camera.topic, TYPE_NAMES[camera.compressed]
    publishers = _publishers(node, topic)
    if not publishers:
        return (
            f"{name}: nobody publishes on {topic}: start the camera, or set "
            f"camera.{camera.name}.topic ({_topics_seen(node, wanted)})."
        )
    fitting = [info for info in publishers if info.topic_type == wanted]
    if not fitting:
        found = ", ".join(sorted({info.topic_type for info in publishers}))
        advice = (
            f"set camera.{camera.name}.compressed to {str(not camera.compressed).lower()}"
            if found == TYPE_NAMES[not camera.compressed]
            else f"set camera.{camera.name}.topic to a topic of images"
        )
        return f"{name}: {topic} carries {found} of {_named(publishers)}, not {wanted}: {advice}."
    clashes = list(_clashes(fitting, camera.qos))
    if len(clashes) == len(fitting):
        return (
            f"{name}: incompatible QoS on {topic}: {'; '.join(clashes[:_SHOWN])}: "
            f"{_advice(camera, fitting)}."
        )
    silent = f"no image comes on {topic} though {_named(fitting)} publish"
    silent += "es there" if len(fitting) == 1 else " there"
    if clashes:
        silent += f" (of them without a match: {'; '.join(clashes[:_SHOWN])})"
    advice = "check that the camera delivers, and that the network carries images of its size"
    if not _asks_reliable(camera) and all(map(is_reliable, fitting)):
        advice += f"; camera.{camera.name}.reliability: reliable has lost parts sent again"
    return f"{name}: {silent}: {advice}."


def why_clock_stands_still(node: Node, seconds: float) -> str:
    """One sentence about a /clock that has not moved for so long."""
    publishers = _publishers(node, "/clock")
    if not publishers:
        return (
            "use_sim_time is set, but nobody publishes /clock: play the bag with --clock, start "
            "the simulator, or unset use_sim_time."
        )
    return (
        f"ROS time stands still for {seconds:.0f} s, though {_named(publishers)} can publish "
        "/clock: images grow old by their arrival; is the bag or simulator paused?"
    )


def is_reliable(info: Any) -> bool:
    """Whether a publisher sends lost parts again."""
    return bool(info.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE)


def _asks_reliable(camera: Subscribed) -> bool:
    return bool(camera.qos.reliability == QoSReliabilityPolicy.RELIABLE)


def _advice(camera: Subscribed, publishers: Iterable[Any]) -> str:
    if _asks_reliable(camera) and not all(map(is_reliable, publishers)):
        return f"set camera.{camera.name}.reliability to auto"
    return f"mend the parameters qos_overrides.{camera.topic}.subscription"


def _clashes(publishers: Iterable[Any], wanted: QoSProfile) -> Iterable[str]:
    """Each publisher whose offered QoS our subscription cannot accept, with the policy."""
    for info in publishers:
        compatibility, reason = qos_check_compatible(info.qos_profile, wanted)
        if compatibility == QoSCompatibility.ERROR:
            yield f"{_full_name(info)}: {reason.strip()}"


def _named(publishers: list[Any]) -> str:
    names = sorted({_full_name(info) for info in publishers})
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _full_name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _topics_seen(node: Node, wanted: str) -> str:
    """The topics that carry such images, without the node's own overlay."""
    topics = [
        topic
        for topic, types in node.get_topic_names_and_types()
        if wanted in types and any(_is_other(node, info) for info in _publishers(node, topic))
    ]
    return (
        f"images are published on {', '.join(topics[:_SHOWN])}"
        if topics
        else "no topic carries images"
    )


def _publishers(node: Node, topic: str) -> list[Any]:
    return list(node.get_publishers_info_by_topic(topic))


def _is_other(node: Node, info: Any) -> bool:
    return (info.node_namespace, info.node_name) != (node.get_namespace(), node.get_name())
