# SPDX-License-Identifier: Apache-2.0
"""The node's health as diagnostic_msgs: the model, each camera, the requests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from svd_vlm_ros.node.cameras import Camera

RECENT_TROUBLE = 60.0  # s for which a failed request keeps the status at warning
_OK, _WARN, _ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass
class Counts:
    """What became of the requests so far; written by the executor's thread alone."""

    answered: int = 0
    refused: int = 0
    described: int = 0
    last_trouble: str = ""
    last_trouble_at: float = float("-inf")  # time.monotonic()

    def trouble(self, sentence: str) -> None:
        """Remember what went wrong in the node or its cameras."""
        self.last_trouble = sentence
        self.last_trouble_at = time.monotonic()


class RateMeter:
    """Pictures a second of each camera between two looks."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}

    def rate(self, camera: Camera, now: float) -> float:
        """Pictures a second since the last call; over the camera's whole life at the first."""
        since, received = self._last.get(camera.name, (camera.begun, 0))
        self._last[camera.name] = (now, camera.received)
        return max(camera.received - received, 0) / max(now - since, 1e-3)


def model_status(node: str, state: str, error: str, facts: Mapping[str, Any]) -> DiagnosticStatus:
    """The model: lifecycle state, and why loading failed where it did."""
    level, message = (_ERROR, error) if error else (_OK, state)
    return _status(f"{node}: model", level, message, {"lifecycle state": state, **facts})


def camera_status(
    node: str, camera: Camera, rate: float, reason: str, now: float
) -> DiagnosticStatus:
    """One camera: rate and age of its newest picture. `reason`: why it is silent, where it is."""
    latest = camera.latest
    level, message = (_WARN, reason) if reason else (_OK, f"{rate:.1f} pictures/s")
    if latest is None and not reason:
        message = "waiting for the first picture"
    facts = {
        "topic": camera.topic,
        "compressed": str(camera.compressed).lower(),
        "reliable": str(camera.reliable).lower(),
        "pictures": camera.received,
        "rate (Hz)": f"{rate:.2f}",
        "seconds since the newest arrived": f"{now - latest.arrival:.2f}"
        if latest
        else "none came",
    }
    return _status(f"{node}: camera {camera.name}", level, message, facts)


def request_status(
    node: str, counts: Counts, waiting: int, size: int, busy: float, now: float
) -> DiagnosticStatus:
    """The queue: `waiting` questions of the `size` that may, and what became of earlier ones."""
    level, message = _OK, f"{waiting} of {size} places in the queue taken"
    if now - counts.last_trouble_at < RECENT_TROUBLE:
        level, message = _WARN, counts.last_trouble
    elif waiting >= size:
        level = _WARN
    facts = {
        "waiting": waiting,
        "busy for (s)": f"{busy:.2f}",
        "answered": counts.answered,
        "refused": counts.refused,
        "descriptions": counts.described,
        "last trouble": counts.last_trouble,
    }
    return _status(f"{node}: requests", level, message, facts)


def array(stamp: Any, statuses: Iterable[DiagnosticStatus], hardware: str) -> DiagnosticArray:
    """The message for /diagnostics; `hardware`: the device that the model runs on."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    for status in statuses:
        status.hardware_id = hardware
        message.status.append(status)
    return message


def _status(name: str, level: bytes, message: str, facts: Mapping[str, Any]) -> DiagnosticStatus:
    values = [KeyValue(key=key, value=str(value)) for key, value in facts.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=values)
