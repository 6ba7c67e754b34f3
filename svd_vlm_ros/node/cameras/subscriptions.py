# SPDX-License-Identifier: Apache-2.0
"""The cameras: one subscription each, of which only the newest image is kept, as it came.

Depth 1 lets no old images queue up. The callback keeps a reference: images that nobody asks
about cost no more. Which reliability is asked for follows what the publishers offer (`Camera`);
why a camera is silent, `silence` says.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException, ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation as rcl
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import (
    InvalidQosOverridesError,
    QosCallbackResult,
    QoSOverridingOptions,
)
from sensor_msgs.msg import CompressedImage, Image

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.cameras import publishers
from svd_vlm_ros.node.cameras.frames import Frame
from svd_vlm_ros.node.parameters.settings import AUTO, CameraSettings
from svd_vlm_ros.ros.distributions import SubscriptionEventCallbacks, UnsupportedEventTypeError

if TYPE_CHECKING:
    from rclpy.node import Node

SILENT_SECONDS = 4.0  # without an image for so long, a camera is called silent
SLOW_FACTOR = 3.0  # a camera of few images is silent after so many of its usual intervals
_INTERVALS = 7  # between the last images, whose median is usual
_OTHER_TOPICS = ("/clock", "/parameter_events")  # to which rclpy itself subscribes


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
    """One camera's subscription and its newest image.

    `latest` is replaced as a whole by the executor's thread and may be read by any other; then
    `on_frame()` is called.

    Reliability: a best-effort subscription matches every publisher, but loses most large images
    on a busy computer (docs/node.md, "Large images"); a reliable one gets nothing from a
    best-effort publisher. So it begins with best effort, and `follow` asks for reliable if every
    publisher offers it, unless the settings or a `qos_overrides` parameter say one of them.
    """

    def __init__(
        self,
        node: Node,
        settings: CameraSettings,
        on_frame: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = settings.name
        self.compressed = settings.compressed
        self.latest: Frame | None = None
        self.begun = time.monotonic()
        self.lost = 0  # images that the middleware knows to have been lost on their way
        self._node = node
        self._clock = node.get_clock()
        self._on_frame = on_frame
        self._count = 0
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)
        self._wanted_topic = settings.topic
        self.topic: str = node.resolve_topic_name(settings.topic)
        given = f"qos_overrides.{self.topic}.subscription.reliability" in _given(node)
        self._follows = settings.reliability == AUTO and not given
        self._subscription = self._subscribe(settings.reliability == "reliable")
        # A bag that begins anew takes ROS time back: the images from before lie in the future.
        self._jumps = node.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
            ),
            post_callback=self._forget,
        )

    def _subscribe(self, reliable: bool) -> Any:
        kinds = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY]
        if not self._follows:
            kinds.append(QoSPolicyKind.RELIABILITY)
        options: dict[str, Any] = {
            "callback_group": MutuallyExclusiveCallbackGroup(),
            "qos_overriding_options": QoSOverridingOptions(kinds, callback=_check_qos),
        }
        arguments = (
            CompressedImage if self.compressed else Image,
            self._wanted_topic,
            self._keep,
            quality_of_service(reliable),
        )
        losses = SubscriptionEventCallbacks(message_lost=self._count_lost)
        try:
            return self._node.create_subscription(*arguments, **options, event_callbacks=losses)
        except UnsupportedEventTypeError:  # a middleware that does not tell
            return self._node.create_subscription(*arguments, **options)

    def _keep(self, message: Any) -> None:
        """The subscription's callback: no conversion, no copy, no waiting."""
        now, last = time.monotonic(), self.latest
        if last is not None:
            self._intervals.append(now - last.arrival)
        self._count += 1
        self.latest = Frame(message, now, self._count, self._clock.now().nanoseconds)
        self._on_frame()

    def _count_lost(self, event: Any) -> None:
        self.lost += event.total_count_change

    def _forget(self, jump: Any) -> None:
        """ROS time went back, or is another now: no image of before is new enough for anybody."""
        self.latest = None

    def follow(self) -> None:
        """Ask for the reliability that all publishers offer; to be called about once a second."""
        if not self._follows:
            return
        offers = [publishers.is_reliable(info) for info in self.publishers()]
        reliable = bool(offers) and all(offers)  # without any, what matches whoever comes
        if reliable != self.reliable:
            old, self._subscription = self._subscription, self._subscribe(reliable)
            self._node.destroy_subscription(old)
            self._node.get_logger().debug(
                f"Camera '{self.name}': {self.topic} is now subscribed "
                f"{'reliable' if self.reliable else 'best effort'}, as its publishers are."
            )

    def destroy(self) -> None:
        """End the subscription and let the last image go."""
        self._jumps.unregister()
        self._node.destroy_subscription(self._subscription)
        self.latest = None

    @property
    def received(self) -> int:
        """How many images have come."""
        return self._count

    @property
    def qos(self) -> QoSProfile:
        """The quality of service that is asked for now."""
        return self._subscription.qos_profile

    @property
    def reliable(self) -> bool:
        """Whether publishers are asked to send lost parts again."""
        return bool(self.qos.reliability == QoSReliabilityPolicy.RELIABLE)

    @property
    def follows(self) -> bool:
        """Whether the reliability follows the publishers."""
        return self._follows

    @property
    def type_name(self) -> str:
        """The type of the images' messages."""
        return publishers.TYPE_NAMES[self.compressed]

    def publishers(self) -> list[Any]:
        """What the ROS graph knows of the publishers of our type of message."""
        found = self._node.get_publishers_info_by_topic(self.topic)
        return [info for info in found if info.topic_type == self.type_name]

    def silent_for(self, now: float) -> float:
        """Seconds since the last image came, or since the subscription if none has."""
        latest = self.latest
        return now - (latest.arrival if latest else self.begun)

    def is_silent(self, now: float) -> bool:
        """Whether the next image is overdue."""
        usual = statistics.median(self._intervals) if len(self._intervals) == _INTERVALS else 0.0
        return self.silent_for(now) > max(SILENT_SECONDS, SLOW_FACTOR * usual)

    def why_silent(self) -> str:
        """One sentence why no image comes, judged by the ROS graph, and what to do."""
        return publishers.why_silent(self._node, self)


def subscribe(
    node: Node,
    wanted: Iterable[CameraSettings],
    on_frame: Callable[[], None] = lambda: None,
) -> dict[str, Camera]:
    """A camera for each of the settings, by name. Raises `UserError` on an impossible one."""
    cameras: dict[str, Camera] = {}
    try:
        for settings in wanted:
            cameras[settings.name] = _camera(node, settings, on_frame)
    except UserError:
        for made in cameras.values():
            made.destroy()
        raise
    topics = [*(camera.topic for camera in cameras.values()), *_OTHER_TOPICS]
    for name in _given(node):
        if name.startswith("qos_overrides.") and not any(f".{topic}." in name for topic in topics):
            node.get_logger().warning(
                f"Parameter {name} has no effect: the cameras' topics are {', '.join(topics[:-2])}."
            )
    return cameras


def _camera(node: Node, settings: CameraSettings, on_frame: Callable[[], None]) -> Camera:
    try:
        return Camera(node, settings, on_frame)
    except (InvalidTopicNameException, rcl.RCLError) as error:  # or it has another type
        raise UserError(
            f"Parameter camera.{settings.name}.topic is '{settings.topic}', to which the node "
            f"cannot subscribe: {' '.join(str(error).split())}"
        ) from error
    except (InvalidQosOverridesError, ParameterException, RuntimeError) as error:
        raise UserError(
            f"The qos_overrides of camera '{settings.name}' cannot be used: "
            f"{' '.join(str(error).split())}"
        ) from error


def _given(node: Node) -> Iterable[str]:
    """Names of the parameters from command line and files; rclpy has no public name for them."""
    return getattr(node, "_parameter_overrides", {})


def _check_qos(profile: QoSProfile) -> QosCallbackResult:
    """Refuse a queue without an end: a slow moment would fill the memory with old images."""
    good = profile.history == QoSHistoryPolicy.KEEP_LAST and profile.depth >= 1
    return QosCallbackResult(
        successful=good,
        reason="" if good else "history must be keep_last with a depth of 1 or more",
    )
