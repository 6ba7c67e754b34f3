# SPDX-License-Identifier: Apache-2.0
"""The node's watch on itself: /diagnostics once a second, its log, silent cameras, namesakes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.heap import trim
from svd_vlm_ros.images.files import image_size
from svd_vlm_ros.node.cameras import publishers
from svd_vlm_ros.node.cameras.frames import NANOSECONDS
from svd_vlm_ros.node.health import diagnostics
from svd_vlm_ros.node.health.figures import Figures, Snapshot
from svd_vlm_ros.node.health.memory import MIB, MemoryWatch
from svd_vlm_ros.node.inference.replies import Reply, Status

if TYPE_CHECKING:
    from rclpy.node import Node

    from svd_vlm_ros.node.cameras.subscriptions import Camera
    from svd_vlm_ros.node.parameters.settings import Settings
    from svd_vlm_ros.node.session import Session

PERIOD = 1.0  # s
CLOCK_STILL = 4.0  # s that ROS time may stand still, under use_sim_time
WARN_AGAIN = 60.0  # s between two lines in the log about the same trouble
RECENT = 60.0  # s for which a trouble is shown in the diagnostics
TRIM = 60.0  # s after which free memory is given back to the system
_TROUBLES = (Status.ERROR, Status.NO_IMAGE, Status.STALE_IMAGE, Status.TIMEOUT, Status.BUSY)


@dataclass(frozen=True)
class Lifecycle:
    """The node's lifecycle state, and why the last transition failed."""

    state: str
    failure: str


class Trouble:
    """The last sentence of a kind, shown for a minute."""

    def __init__(self) -> None:
        self.sentence = ""
        self._at = float("-inf")

    def keep(self, sentence: str) -> None:
        """Remember it."""
        self.sentence, self._at = sentence, time.monotonic()

    def recent(self, now: float) -> str:
        """The sentence, "" if it is older than a minute."""
        return self.sentence if now - self._at < RECENT else ""


class Health:
    """Watches the node, and publishes /diagnostics. `note` is the executor's.

    Args:
        node: for its name, clock and log, and for what it sees of the ROS graph.
        lifecycle: its state.
        configured: the session, while the node is configured.
        settings: the parameters' values, None before the node was first configured.
        queue_size: the parameter.
    """

    def __init__(
        self,
        node: Node,
        *,
        lifecycle: Callable[[], Lifecycle],
        configured: Callable[[], Session | None],
        settings: Callable[[], Settings | None],
        queue_size: Callable[[], int],
    ) -> None:
        self._node = node
        self._logger: Any = node.get_logger()
        self._lifecycle = lifecycle
        self._configured = configured
        self._settings = settings
        self._queue_size = queue_size
        self._why_facts_wait: Callable[[], str] = lambda: ""
        self._figures = Figures()
        self._trouble, self._fault = Trouble(), Trouble()
        self._unreadable: dict[str, Trouble] = {}
        self._logged: dict[tuple[Any, ...], tuple[float, int]] = {}  # when, and how often since
        self._counted: dict[str, tuple[float, int, int]] = {}  # camera -> when, received, lost
        self._silent: set[str] = set()
        self._ros_time = (0, time.monotonic())  # nanoseconds, and since when
        self._memory = MemoryWatch()
        self._trimmed = time.monotonic()
        self._late: deque[float] = deque(maxlen=round(RECENT / PERIOD))
        self._due = time.monotonic() + PERIOD
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def start(self, why_facts_wait: Callable[[], str]) -> None:
        """Look once a second from now on; `why_facts_wait()` is shown as a warning."""
        self._why_facts_wait = why_facts_wait
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._node.create_timer(PERIOD, self._tick, clock=steady)

    def note(self, reply: Reply, description: bool = False) -> None:
        """Count and log how a request ended: a line at DEBUG, a trouble once a minute."""
        self._figures.note(reply, description)
        self._logger.debug(_line(reply, description))
        if reply.status in _TROUBLES:
            self._trouble.keep(reply.sentence)
            self._warn((reply.status, reply.camera), reply.sentence, reply.detail)
        session = self._configured()
        camera = session.cameras.get(reply.camera) if session else None
        if reply.status is Status.NO_IMAGE and camera is not None and camera.latest is not None:
            self._unreadable.setdefault(reply.camera, Trouble()).keep(reply.sentence)

    def fault(self, sentence: str) -> None:
        """A fault of the node itself: ERROR in the diagnostics for a minute. From any thread."""
        self._fault.keep(sentence)
        self._logger.error(sentence)

    def snapshot(self) -> Snapshot:
        """The node's figures now; see `figures`."""
        return self._figures.snapshot(self._configured(), self._queue_size())

    def _warn(self, kind: tuple[Any, ...], sentence: str, detail: str = "") -> None:
        """Log a trouble once, then once a minute with the number of its like since."""
        now = time.monotonic()
        at, more = self._logged.get(kind, (float("-inf"), 0))
        if now - at < WARN_AGAIN:
            self._logged[kind] = (at, more + 1)
            return
        self._logged[kind] = (now, 0)
        again = f" ({more} more of the kind since the last warning)" if more else ""
        self._logger.warning(f"{sentence}{again}")
        if detail:
            self._logger.error(detail)

    def _tick(self) -> None:
        now = time.monotonic()
        self._late.append(max(now - self._due, 0.0))
        self._due = max(self._due + PERIOD, now)  # rclpy drops the periods that were missed
        self._memory.look(now)
        if now - self._trimmed >= TRIM:
            self._trimmed = now
            threading.Thread(target=trim, name="trim", daemon=True).start()
        session = self._configured()
        hardware = ""
        if session is not None:
            for camera in session.cameras.values():
                camera.follow()
            session.worker.revive()  # also if nobody asks: what waits goes on
            hardware = str(session.worker.info.device) if session.worker.info else ""
        stamp = self._node.get_clock().now().to_msg()
        statuses = self._statuses(session, now)
        self._publisher.publish(diagnostics.array(stamp, statuses, hardware))

    def _statuses(self, session: Session | None, now: float) -> list[Any]:
        name = self._node.get_fully_qualified_name().lstrip("/")
        lifecycle = self._lifecycle()
        is_loaded = session is not None and session.worker.info is not None
        failure = "" if is_loaded else lifecycle.failure
        fault = self._fault.recent(now) or self._why_not_alone()
        facts = _model_facts(self._settings(), session)
        made = [diagnostics.model_status(name, lifecycle.state, failure, fault, facts)]
        if self._node.get_parameter("use_sim_time").value:
            still = self._why_clock_stands_still(now)
            made.append(diagnostics.clock_status(name, self._ros_time[0] / NANOSECONDS, still))
        for camera in session.cameras.values() if session is not None else ():
            assert session is not None
            unreadable = self._unreadable.get(camera.name)
            trouble = unreadable.recent(now) if unreadable else ""
            silence = self._why_silent(camera, now)
            damaged = session.answerer.scenes.damaged[camera.name]
            figures = self._camera_figures(camera, damaged, now)
            made.append(diagnostics.camera_status(name, figures, silence, trouble))
        snapshot = self.snapshot()
        trouble, last = self._trouble.recent(now), self._trouble.sentence
        if waits := self._why_facts_wait():
            self._warn(("facts",), waits)
        made.append(diagnostics.request_status(name, snapshot, waits or trouble, last))
        made.append(diagnostics.latency_status(name, snapshot))
        resident, growth = self._memory.resident / MIB, self._memory.growth
        made.append(diagnostics.memory_status(name, resident, growth, max(self._late, default=0.0)))
        return made

    def _why_silent(self, camera: Camera, now: float) -> str:
        """Why a silent camera is silent, "" if it is not; warns in the log once a minute."""
        if not camera.is_silent(now):
            if camera.name in self._silent and camera.received:
                self._logger.info(f"Camera '{camera.name}': images come again.")
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
        """Why simulated time does not go on, "" if it does; warns in the log once a minute."""
        ros_now = self._node.get_clock().now().nanoseconds
        if ros_now != self._ros_time[0]:
            self._ros_time = (ros_now, now)
        seconds = now - self._ros_time[1]
        if seconds <= CLOCK_STILL:
            return ""
        reason = publishers.why_clock_stands_still(self._node, seconds)
        self._warn(("clock",), reason)
        return reason

    def _camera_figures(
        self, camera: Camera, damaged: int, now: float
    ) -> diagnostics.CameraFigures:
        at, received, lost = self._counted.get(camera.name, (camera.begun, 0, 0))
        if camera.received < received:  # another one of this name: the node was configured anew
            at, received, lost = camera.begun, 0, 0
        self._counted[camera.name] = (now, camera.received, camera.lost)
        seconds = max(now - at, 1e-3)
        latest, settings = camera.latest, self._settings()
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
            damaged=damaged,
            rate=(camera.received - received) / seconds,
            loss_rate=max(camera.lost - lost, 0) / seconds,
            arrived_ago=now - latest.arrival if latest is not None else None,
            age=age,
            image=_image(latest.message) if latest is not None else "",
            oldest=settings.max_image_age if settings is not None else 0.0,
        )


def _image(message: Any) -> str:
    """Size and encoding of an image in words."""
    if hasattr(message, "encoding"):
        return f"{message.width}x{message.height} {message.encoding[:40]}"
    try:
        width, height = image_size(memoryview(message.data))
    except UserError as error:
        return f"unreadable: {error}"
    return f"{width}x{height} {message.format[:40]}"


def _line(reply: Reply, description: bool) -> str:
    """A request in one line."""
    stats = reply.stats
    what = "description" if description else "question"
    parts = [f"{what} camera={reply.camera or '?'} {reply.status.name}"]
    if reply.repeated:
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


def _model_facts(settings: Settings | None, session: Session | None) -> dict[str, Any]:
    """The model in words."""
    info = session.worker.info if session is not None else None
    if settings is None:
        return {}
    facts: dict[str, Any] = {
        "model": settings.model,
        "runtime": settings.runtime if info is None else info.runtime,
        "precision": settings.precision if info is None else info.precision,
        "selector": settings.selector,
    }
    if info is not None:
        facts |= {"device": info.device, "weights (MiB)": info.weight_bytes >> 20}
        facts["visual tokens"] = f"{settings.budget:g} of {info.visual_tokens_total}"
    return facts
