# SPDX-License-Identifier: Apache-2.0
"""The most memory that a piece of work had in use: of the device, or of this process on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from svd_vlm_ros.heap import give_back

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # forget the high water of the resident memory (Linux)


class Peak:
    """The high water of memory within a `with` block: `bytes` after it, 0 if it is not known.

    On CUDA it is the memory of torch's allocator, on a CPU the resident memory of the process,
    libraries and pages of mapped files included.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes = 0

    def __enter__(self) -> Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with contextlib.suppress(OSError):
                _CLEAR.write_text(_RESET_PEAK)
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            self.bytes = _status("VmHWM")


def in_use(device: torch.device) -> int:
    """Bytes in use now: of torch's allocator on CUDA, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS")


@contextlib.contextmanager
def measured_peak(device: torch.device) -> Iterator[Peak]:
    """As `Peak`, after free memory was given back to the system."""
    give_back()
    with Peak(device) as peak:
        yield peak


def _status(field: str) -> int:
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
