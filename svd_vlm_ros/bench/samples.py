# SPDX-License-Identifier: Apache-2.0
"""Repeated measurements: medians with their spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Spread:
    """A quantity that was measured several times.

    Attributes:
        median: of the runs.
        low, high: the smallest and the largest run.
        runs: how many.
    """

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of one or more values."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1], len(ordered))


def spreads(runs: Sequence[dict[str, float]]) -> dict[str, Spread]:
    """The spread of each quantity over several runs, each a dict with the same keys."""
    return {name: Spread.of(run[name] for run in runs) for name in runs[0]}


def now(device: torch.device) -> float:
    """Seconds on a clock; on CUDA after all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(work: Callable[[], object], device: torch.device, least: float = 0.2) -> float:
    """The median seconds of a short piece of work, repeated for `least` seconds and 3 times."""
    work()
    taken: list[float] = []
    while sum(taken) < least or len(taken) < 3:
        begun = now(device)
        work()
        taken.append(now(device) - begun)
    return statistics.median(taken)
