# SPDX-License-Identifier: Apache-2.0
"""One image as it came from a camera. No ROS in it but the message that passes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Frame:
    """One image as it arrived: the message itself, and when that was.

    `arrival` in `time.monotonic()`, `clock` in ROS time, nanoseconds; `number` counts the camera's
    images. `stamp`: when the image was taken, ROS time in nanoseconds; 0 if its driver does not
    say.
    """

    message: Any
    arrival: float
    number: int
    clock: int = 0
    stamp: int = field(init=False)

    def __post_init__(self) -> None:
        stamp = self.message.header.stamp
        object.__setattr__(self, "stamp", stamp.sec * NANOSECONDS + stamp.nanosec)

    @property
    def taken(self) -> int:
        """The stamp, or the arrival if the stamp lies ahead of it: no image is of later."""
        return min(self.stamp, self.clock) if self.clock else self.stamp
