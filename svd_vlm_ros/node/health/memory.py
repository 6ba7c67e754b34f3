# SPDX-License-Identifier: Apache-2.0
"""The process's memory and whether it grows: a straight line through an hour of samples."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence

WARM_UP = 300.0  # s after the start that are left out: caches and pools fill up
WINDOW = 3600.0  # s that the line goes over
INTERVAL = 10.0  # s between two samples
LEAST = 900.0  # s of samples before a slope is known: a shorter line means nothing
MIB = 1 << 20


def memory_bytes() -> tuple[int, int]:
    """The process's resident memory, and what of it is its own; 0 if the system does not say.

    Its own is what it has allocated. The rest are pages of files, and memory that it shares with
    other processes: DDS passes images through that. Those pages count for every process that has
    touched them, so that they add up for an hour, to the fixed size of the segments at most.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared = map(int, file.read().split()[:3])
    except (OSError, ValueError):
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return resident * page, (resident - shared) * page


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of (seconds, value) pairs, in value a second; 0.0 for fewer than two."""
    if len(samples) < 2:
        return 0.0
    mean_time = sum(at for at, _ in samples) / len(samples)
    mean_value = sum(value for _, value in samples) / len(samples)
    spread = sum((at - mean_time) ** 2 for at, _ in samples)
    product = sum((at - mean_time) * (value - mean_value) for at, value in samples)
    return product / spread if spread else 0.0


class MemoryWatch:
    """Samples the memory; `now` is always `time.monotonic()`.

    Attributes:
        resident: bytes at the last look, all that is resident.
    """

    def __init__(self, begun: float | None = None) -> None:
        self._begun = time.monotonic() if begun is None else begun
        self._samples: deque[tuple[float, float]] = deque(maxlen=int(WINDOW / INTERVAL))
        self.resident = 0

    def look(self, now: float, memory: tuple[int, int] | None = None) -> None:
        """Take a sample if one is due; to be called about once a second."""
        self.resident, own = memory_bytes() if memory is None else memory
        due = not self._samples or now - self._samples[-1][0] >= INTERVAL
        if due and now - self._begun >= WARM_UP and own:
            self._samples.append((now, own / MIB))

    @property
    def growth(self) -> float | None:
        """MiB an hour of its own memory; None until there are enough samples."""
        samples = self._samples
        if len(samples) < 2 or samples[-1][0] - samples[0][0] < LEAST:
            return None
        return slope(samples) * 3600.0
