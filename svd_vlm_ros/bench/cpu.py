# SPDX-License-Identifier: Apache-2.0
"""The name of this machine's CPU, for every table that names it. Without torch."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """The model's name where Linux tells it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
