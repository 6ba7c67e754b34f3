# SPDX-License-Identifier: Apache-2.0
"""The node's health as diagnostic_msgs: pure functions from figures to statuses.

OK     as it should be
WARN   it works, but somebody should look: a full queue, lost images, growing memory
ERROR  it does not work: no model, a crashed thread, a camera that never sent anything
STALE  it has worked, but what there is now is old: a camera that has fallen silent
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

if TYPE_CHECKING:
    from svd_vlm_ros.node.health.figures import Snapshot

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE
LOST_SHARE = 0.2  # of the images of a second; more is worth a warning
FUTURE = 1.0  # s that a stamp may lie ahead of ROS time
GROWTH = 20.0  # MiB an hour that memory may grow
LATE = 0.5  # s that the node's own timer may be late
_PERCENTILES = ("median", "95 %", "99 %")


@dataclass(frozen=True)
class CameraFigures:
    """One camera in this second; `age` in seconds by the newest image's stamp, None: no stamp."""

    name: str
    topic: str
    compressed: bool
    reliable: bool
    received: int
    lost: int
    damaged: int
    rate: float
    loss_rate: float
    arrived_ago: float | None
    age: float | None
    image: str
    oldest: float


def model_status(
    node: str, state: str, failure: str, fault: str, facts: Mapping[str, Any]
) -> DiagnosticStatus:
    """The model: lifecycle state; why loading failed, or a fault of the last minute."""
    sentence = failure or fault
    facts = {"lifecycle state": state, **facts}
    return _status(f"{node}: model", ERROR if sentence else OK, sentence or state, facts)


def clock_status(node: str, ros_time: float, still: str) -> DiagnosticStatus:
    """Simulated time in seconds. `still`: why it does not go on."""
    level, message = (WARN, still) if still else (OK, "simulated time goes on")
    return _status(f"{node}: clock", level, message, {"ROS time (s)": f"{ros_time:.3f}"})


def camera_status(node: str, camera: CameraFigures, silence: str, trouble: str) -> DiagnosticStatus:
    """One camera. `silence`: why it is silent; `trouble`: why an image of it was refused."""
    if silence:
        level, message = (STALE if camera.received else ERROR), silence
    elif camera.arrived_ago is None:
        level, message = OK, "waiting for the first image"
    else:
        level, message = _image_level(camera, trouble)
    facts = {
        "topic": camera.topic,
        "compressed": str(camera.compressed).lower(),
        "reliable": str(camera.reliable).lower(),
        "image": camera.image,
        "images": camera.received,
        "lost on the way": camera.lost,
        "damaged, of those looked at": camera.damaged,
        "rate (Hz)": f"{camera.rate:.2f}",
        "lost (Hz)": f"{camera.loss_rate:.2f}",
        "seconds since the newest arrived": _seconds(camera.arrived_ago, "none came"),
        "age by its stamp (s)": _seconds(camera.age, "it has none"),
    }
    return _status(f"{node}: camera {camera.name}", level, message, facts)


def _image_level(camera: CameraFigures, trouble: str) -> tuple[bytes, str]:
    """Level and sentence of a camera that sends."""
    all_sent = camera.rate + camera.loss_rate
    if trouble:
        return WARN, trouble
    if camera.age is not None and camera.oldest and camera.age > camera.oldest:
        return WARN, (
            f"its images are {camera.age:.1f} s old by their stamp, over max_image_age: check "
            "its clock (a replayed bag needs use_sim_time)"
        )
    if camera.age is not None and camera.age < -FUTURE:
        return WARN, f"its images are stamped {-camera.age:.1f} s ahead of ROS time: check clocks"
    if camera.loss_rate > LOST_SHARE * all_sent:
        return WARN, (
            f"{camera.loss_rate:.1f} of {all_sent:.1f} images/s are lost on the way: see 'Large "
            "images' in docs/node.md"
        )
    return OK, f"{camera.rate:.1f} images/s of {camera.image}"


def request_status(
    node: str, figures: Snapshot, trouble: str, last_trouble: str
) -> DiagnosticStatus:
    """The queue and what became of the requests; `trouble`: what went wrong in the last minute."""
    level = OK
    message = f"{figures.waiting} of {figures.queue_size} places in the queue taken"
    if trouble:
        level, message = WARN, trouble
    elif figures.waiting >= figures.queue_size > 0:
        level = WARN
    facts: dict[str, Any] = {
        "waiting": figures.waiting,
        "busy for (s)": f"{figures.busy_for:.2f}",
        **{f"requests {name}": count for name, count in sorted(figures.by_status.items())},
        "descriptions": figures.described,
        "descriptions repeated, nothing changed": figures.repeated,
        "answered together": f"{figures.batched} in {figures.batches} batches",
        "out of memory": figures.out_of_memory,
        "inference thread restarted": figures.restarts,
        "last error": figures.last_error,
        "last trouble": last_trouble,
    }
    return _status(f"{node}: requests", level, message, facts)


def latency_status(node: str, figures: Snapshot) -> DiagnosticStatus:
    """Percentiles of the last answers by stage, and what was saved."""
    seen = figures.scenes_made + figures.scenes_reused
    facts: dict[str, Any] = {
        f"{stage}, {name} (ms)": f"{1000 * seconds:.1f}"
        for stage, values in figures.latency.items()
        for name, seconds in zip(_PERCENTILES, values, strict=True)
    }
    facts |= {
        "visual tokens kept": figures.tokens_kept,
        "images encoded": figures.scenes_made,
        "encodings saved": figures.scenes_reused,
        "reuse (%)": f"{100 * figures.scenes_reused / seen:.0f}" if seen else "",
    }
    first = figures.latency.get("first_token")
    message = f"first token after {1000 * first[0]:.0f} ms" if first else "no answers yet"
    return _status(f"{node}: latency", OK, message, facts)


def memory_status(
    node: str, resident: float, growth: float | None, late: float
) -> DiagnosticStatus:
    """The process: `resident` MiB, `growth` MiB/h, and how late its timer was at worst (s)."""
    level, message = OK, f"{resident:.0f} MiB"
    if growth is not None and growth > GROWTH:
        level, message = WARN, f"memory grows by {growth:.1f} MiB an hour"
    elif late > LATE:
        level, message = (
            WARN,
            f"the node's timer came {late:.1f} s late: the computer is overloaded",
        )
    facts = {
        "memory (MiB)": f"{resident:.1f}",
        "growth (MiB/h)": "not known yet" if growth is None else f"{growth:.2f}",
        "timer late, worst of the last minute (ms)": f"{1000 * late:.1f}",
    }
    return _status(f"{node}: process", level, message, facts)


def array(stamp: Any, statuses: Iterable[DiagnosticStatus], hardware: str) -> DiagnosticArray:
    """The message for /diagnostics; `hardware`: the device that the model runs on."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    for status in statuses:
        status.hardware_id = hardware
        message.status.append(status)
    return message


def _seconds(value: float | None, none: str) -> str:
    return none if value is None else f"{value:.2f}"


def _status(name: str, level: bytes, message: str, facts: Mapping[str, Any]) -> DiagnosticStatus:
    values = [KeyValue(key=key, value=str(value)) for key, value in facts.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=values)
