# SPDX-License-Identifier: Apache-2.0
"""The node's watch on itself: /diagnostics once a second, and a warning for a silent camera."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType

from svd_vlm_ros.node import diagnostics
from svd_vlm_ros.node.cameras import Camera
from svd_vlm_ros.node.inference import Priority
from svd_vlm_ros.node.requests import Reply, Status

if TYPE_CHECKING:
    from svd_vlm_ros.node.perception_node import PerceptionNode

PERIOD = 1.0  # s
WARN_AGAIN = 60.0  # s between two warnings of the same silent camera
_TROUBLES = (Status.ERROR, Status.NO_IMAGE, Status.STALE_IMAGE, Status.TIMEOUT, Status.BUSY)


class Health:
    """Counts what became of the requests, and tells /diagnostics and the log."""

    def __init__(self, node: PerceptionNode) -> None:
        self.counts = diagnostics.Counts()
        self._node = node
        self._rates = diagnostics.RateMeter()
        self._warned: dict[str, float] = {}
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        node.create_timer(PERIOD, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def note(self, reply: Reply, description: bool = False) -> None:
        """Count how a request ended; log what went wrong in the node or its cameras."""
        if reply.status is Status.OK:
            if description:
                self.counts.described += 1
            else:
                self.counts.answered += 1
            return
        if reply.status in _TROUBLES:
            self.counts.trouble(reply.sentence)
            self._node.get_logger().warning(reply.sentence, throttle_duration_sec=5.0)
        if reply.detail:
            self._node.get_logger().error(reply.detail)
        if not description:
            self.counts.refused += 1

    def _tick(self) -> None:
        node, now = self._node, time.monotonic()
        name = node.get_fully_qualified_name().lstrip("/")
        error = "" if node.engine else node.failure
        statuses = [diagnostics.model_status(name, node.state, error, _model_facts(node))]
        for camera in node.cameras.values():
            reason = self._why_silent(camera, now)
            rate = self._rates.rate(camera, now)
            statuses.append(diagnostics.camera_status(name, camera, rate, reason, now))
        waiting, size, busy = _queue_facts(node, now)
        statuses.append(diagnostics.request_status(name, self.counts, waiting, size, busy, now))
        hardware = node.engine.device if node.engine else ""
        stamp = node.get_clock().now().to_msg()
        self._publisher.publish(diagnostics.array(stamp, statuses, str(hardware)))

    def _why_silent(self, camera: Camera, now: float) -> str:
        """Why a silent camera is silent, "" where it is not; warns in the log once a minute."""
        if not camera.is_silent(now):
            if self._warned.pop(camera.name, None) is not None:
                self._node.get_logger().info(f"Camera '{camera.name}': pictures come again.")
            return ""
        reason = camera.why_silent()
        if now - self._warned.get(camera.name, float("-inf")) >= WARN_AGAIN:
            self._warned[camera.name] = now
            self._node.get_logger().warning(reason)
        return reason


def _model_facts(node: PerceptionNode) -> dict[str, Any]:
    """The model in words."""
    settings, info = node.settings_if_any, node.engine
    if settings is None:
        return {}
    facts: dict[str, Any] = {
        "model": settings.model,
        "precision": settings.precision,
        "selector": settings.selector,
    }
    if info is not None:
        facts |= {"device": info.device, "weights (MiB)": info.weight_bytes >> 20}
        facts["visual tokens"] = f"{settings.budget:g} of {info.visual_tokens_total}"
    return facts


def _queue_facts(node: PerceptionNode, now: float) -> tuple[int, int, float]:
    """Questions that wait, how many may, and the seconds that the model has been at its job."""
    size = node.get_parameter("queue_size").value
    inference = node.inference
    if inference is None:
        return 0, size, 0.0
    job = inference.current
    busy = now - job.began if job is not None and job.began is not None else 0.0
    return inference.waiting(Priority.QUESTION), size, busy
