# SPDX-License-Identifier: Apache-2.0
"""The node's watch on itself: /diagnostics once a second, its log, and its cameras' silence."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.heap import trim
from svd_vlm_ros.node import diagnostics, silence
from svd_vlm_ros.node.memory import MIB, MemoryWatch
from svd_vlm_ros.node.requests import NANOSECONDS, Reply, Status
from svd_vlm_ros.pictures.files import picture_size

if TYPE_CHECKING:
    from svd_vlm_ros.node.cameras import Camera
    from svd_vlm_ros.node.perception_node import PerceptionNode

PERIOD = 1.0  # s
CLOCK_STILL = 4.0  # s that ROS time may stand still, under use_sim_time
WARN_AGAIN = 60.0  # s between two lines in the log about the same trouble
RECENT = 60.0  # s for which a trouble is shown in the diagnostics
TRIM = 60.0  # s after which free memory is given back to the system
_TROUBLES = (Status.ERROR, Status.NO_IMAGE, Status.STALE_IMAGE, Status.TIMEOUT, Status.BUSY)


class Said:
    """The last sentence of a kind, shown for a minute."""

    def __init__(self) -> None:
        self.sentence = ""
        self._at = float("-inf")

    def say(self, sentence: str) -> None:
        """Remember it."""
        self.sentence, self._at = sentence, time.monotonic()

    def recent(self, now: float) -> str:
        """The sentence, "" where it is older than a minute."""
        return self.sentence if now - self._at < RECENT else ""


class Health:
    """Tells /diagnostics and the log how the node is. `note` is the executor's."""

    def __init__(self, node: PerceptionNode) -> None:
        self._node = node
        self._trouble, self._fault = Said(), Said()
        self._unreadable: dict[str, Said] = {}
        self._logged: dict[tuple[Any, ...], tuple[float, int]] = {}  # when, and how often since
        self._counted: dict[str, tuple[float, int, int]] = {}  # camera -> when, received, lost
        self._silent: set[str] = set()
        self._ros_time = (0, time.monotonic())  # nanoseconds, and since when
        self._memory = MemoryWatch()
        self._trimmed = time.monotonic()
        self._late: deque[float] = deque(maxlen=round(RECENT / PERIOD))
        self._due = time.monotonic() + PERIOD
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        node.create_timer(PERIOD, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def note(self, reply: Reply, description: bool = False, repeated: bool = False) -> None:
        """Log how a request ended: a line at DEBUG, a trouble once a minute as a warning."""
        self._node.get_logger().debug(_line(reply, description, repeated))
        if reply.status in _TROUBLES:
            self._trouble.say(reply.sentence)
            self._warn((reply.status, reply.camera), reply.sentence, reply.detail)
        camera = self._node.cameras.get(reply.camera)
        if reply.status is Status.NO_IMAGE and camera is not None and camera.latest is not None:
            self._unreadable.setdefault(reply.camera, Said()).say(reply.sentence)

    def fault(self, sentence: str) -> None:
        """A fault of the node itself: ERROR in the diagnostics for a minute. From any thread."""
        self._fault.say(sentence)
        self._node.get_logger().error(sentence)

    def _warn(self, kind: tuple[Any, ...], sentence: str, detail: str = "") -> None:
        """Log a trouble once, then once a minute with the number of its like since."""
        now = time.monotonic()
        at, more = self._logged.get(kind, (float("-inf"), 0))
        if now - at < WARN_AGAIN:
            self._logged[kind] = (at, more + 1)
            return
        self._logged[kind] = (now, 0)
        again = f" ({more} more of the kind since the last warning)" if more else ""
        self._node.get_logger().warning(f"{sentence}{again}")
        if detail:
            self._node.get_logger().error(detail)

    def _tick(self) -> None:
        now = time.monotonic()
        self._late.append(max(now - self._due, 0.0))
        self._due = max(self._due + PERIOD, now)  # rclpy drops the periods that were missed
        self._memory.look(now)
        if now - self._trimmed >= TRIM:
            self._trimmed = now
            threading.Thread(target=trim, name="trim", daemon=True).start()
        node = self._node
        for camera in node.cameras.values():
            camera.follow()
        if node.inference is not None:
            node.inference.revive()  # also where nobody asks: what waits goes on
        statuses = self._statuses(now)
        engine = node.engine
        hardware = str(engine.device) if engine else ""
        stamp = node.get_clock().now().to_msg()
        self._publisher.publish(diagnostics.array(stamp, statuses, hardware))

    def _statuses(self, now: float) -> list[Any]:
        node = self._node
        name = node.get_fully_qualified_name().lstrip("/")
        failure = "" if node.engine else node.failure
        fault = self._fault.recent(now) or self._why_not_alone()
        made = [diagnostics.model_status(name, node.state, failure, fault, _model_facts(node))]
        if node.get_parameter("use_sim_time").value:
            still = self._why_clock_stands_still(now)
            made.append(diagnostics.clock_status(name, self._ros_time[0] / NANOSECONDS, still))
        for camera in node.cameras.values():
            unreadable = self._unreadable.get(camera.name)
            trouble = unreadable.recent(now) if unreadable else ""
            silence = self._why_silent(camera, now)
            figures = self._camera_figures(camera, now)
            made.append(diagnostics.camera_status(name, figures, silence, trouble))
        snapshot = node.snapshot()
        trouble, last = self._trouble.recent(now), self._trouble.sentence
        if waits := node.descriptions.why_facts_wait():
            self._warn(("facts",), waits)
        made.append(diagnostics.request_status(name, snapshot, waits or trouble, last))
        made.append(diagnostics.latency_status(name, snapshot))
        resident, growth = self._memory.resident / MIB, self._memory.growth
        made.append(diagnostics.memory_status(name, resident, growth, max(self._late, default=0.0)))
        return made

    def _why_silent(self, camera: Camera, now: float) -> str:
        """Why a silent camera is silent, "" where it is not; warns in the log once a minute."""
        if not camera.is_silent(now):
            if camera.name in self._silent and camera.received:
                self._node.get_logger().info(f"Camera '{camera.name}': pictures come again.")
            self._silent.discard(camera.name)
            self._logged.pop(("silent", camera.name), None)
            return ""
        self._silent.add(camera.name)
        reason = camera.why_silent()
        self._warn(("silent", camera.name), reason)
        return reason

    def _why_not_alone(self) -> str:
        """Whether another node has this one's name; ROS lets both answer, without a word."""
        node = self._node
        mine = (node.get_name(), node.get_namespace())
        others = node.get_node_names_and_namespaces().count(mine) - 1
        if others < 1:
            return ""
        reason = (
            f"There are {others + 1} nodes named {node.get_fully_qualified_name()}: requests and "
            "parameters reach any of them. End one, or give it another name or namespace; one that "
            "was killed is forgotten after 20 s."
        )
        self._warn(("name",), reason)
        return reason

    def _why_clock_stands_still(self, now: float) -> str:
        """Why simulated time does not go on, "" where it does; warns in the log once a minute."""
        ros_now = self._node.ros_now()
        if ros_now != self._ros_time[0]:
            self._ros_time = (ros_now, now)
        seconds = now - self._ros_time[1]
        if seconds <= CLOCK_STILL:
            return ""
        reason = silence.why_clock_stands_still(self._node, seconds)
        self._warn(("clock",), reason)
        return reason

    def _camera_figures(self, camera: Camera, now: float) -> diagnostics.CameraFigures:
        at, received, lost = self._counted.get(camera.name, (camera.begun, 0, 0))
        if camera.received < received:  # another one of this name: the node was configured anew
            at, received, lost = camera.begun, 0, 0
        self._counted[camera.name] = (now, camera.received, camera.lost)
        seconds = max(now - at, 1e-3)
        latest, configured = camera.latest, self._node.configured
        age = None
        if latest is not None and latest.stamp:
            age = (self._node.get_clock().now().nanoseconds - latest.stamp) / NANOSECONDS
        return diagnostics.CameraFigures(
            name=camera.name,
            topic=camera.topic,
            compressed=camera.compressed,
            reliable=camera.reliable,
            received=camera.received,
            lost=camera.lost,
            damaged=configured.answerer.scenes.damaged[camera.name] if configured else 0,
            rate=(camera.received - received) / seconds,
            loss_rate=max(camera.lost - lost, 0) / seconds,
            arrived_ago=now - latest.arrival if latest is not None else None,
            age=age,
            picture=_picture(latest.message) if latest is not None else "",
            oldest=self._node.settings.max_image_age,
        )


def _picture(message: Any) -> str:
    """Size and encoding of a picture in words."""
    if hasattr(message, "encoding"):
        return f"{message.width}x{message.height} {message.encoding[:40]}"
    try:
        width, height = picture_size(memoryview(message.data))
    except UserError as error:
        return f"unreadable: {error}"
    return f"{width}x{height} {message.format[:40]}"


def _line(reply: Reply, description: bool, repeated: bool) -> str:
    """A request in one line."""
    stats = reply.stats
    what = "description" if description else "question"
    parts = [f"{what} camera={reply.camera or '?'} {reply.status.name}"]
    if repeated:
        parts.append("repeated, nothing changed")
    if stats.visual_tokens_kept:
        parts.append(
            f"tokens={stats.visual_tokens_kept}/{stats.visual_tokens_total} "
            f"queue={stats.queue_seconds:.3f} encode={stats.encode_seconds:.3f} "
            f"select={stats.select_seconds:.3f} prefill={stats.prefill_seconds:.3f} "
            f"decode={stats.decode_seconds:.3f} s reused={str(stats.scene_reused).lower()}"
        )
    if reply.sentence:
        parts.append(reply.sentence)
    return "; ".join(parts)


def _model_facts(node: PerceptionNode) -> dict[str, Any]:
    """The model in words."""
    settings, info = node.settings_if_any, node.engine
    if settings is None:
        return {}
    facts: dict[str, Any] = {
        "model": settings.model,
        "precision": settings.precision if info is None else info.precision,
        "selector": settings.selector,
    }
    if info is not None:
        facts |= {"device": info.device, "weights (MiB)": info.weight_bytes >> 20}
        facts["visual tokens"] = f"{settings.budget:g} of {info.visual_tokens_total}"
    return facts
