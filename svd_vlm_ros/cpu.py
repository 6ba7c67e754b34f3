# SPDX-License-Identifier: Apache-2.0
"""This machine's CPU: its name, its class of instructions, the free memory. Without torch.

Speeds differ by factors between classes of CPU, so every table names the class, and the engine
chooses precision and kernels by it. `ATEN_CPU_CAPABILITY=avx2`, which makes torch leave AVX-512
out, counts here as well.
"""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
# The limit of a container and what it uses, control groups version 2 and 1.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
RESTRICTION = "ATEN_CPU_CAPABILITY"  # torch's own variable: default, avx2 or avx512
AVX2 = frozenset({"avx2", "fma", "f16c"})
AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})
NEON_DOT = frozenset({"asimddp"})
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last one is ARM's


@functools.cache
def cpu_name() -> str:
    """The model's name if Linux has it, else the architecture."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> frozenset[str]:
    """The CPU's features as Linux names them, less those that `ATEN_CPU_CAPABILITY` leaves out."""
    known = _features()
    restriction = os.environ.get(RESTRICTION, "").lower()
    if restriction == "default":
        return frozenset()
    if restriction == "avx2":
        return frozenset(
            name for name in known if not name.startswith(("avx512", "avx_vnni", "amx"))
        )
    return known


def cpu_class() -> str:
    """The class of instructions in words, such as "AVX2, no bf16" or "AVX-512 with VNNI, bf16"."""
    has = instructions()
    if has >= AVX512:
        more = [
            word for flag, word in (("avx512_vnni", "VNNI"), ("amx_tile", "AMX")) if flag in has
        ]
        words = "AVX-512" + (f" with {' and '.join(more)}" if more else "")
        return f"{words}, {'bf16' if 'avx512_bf16' in has else 'no bf16'}"
    if has >= AVX2:
        return f"AVX2{' with AVX-VNNI' if 'avx_vnni' in has else ''}, no bf16"
    if "asimd" in has:
        dot = " with dot product" if has >= NEON_DOT else ""
        return f"NEON{dot}, {'bf16' if 'bf16' in has else 'no bf16'}"
    return f"{platform.machine()} without AVX2"


def has_avx512() -> bool:
    """Whether torch and oneDNN use AVX-512 here."""
    return instructions() >= AVX512


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16.

    Elsewhere torch converts on the way: reading took 2.8 times as long as in float32 with
    AVX-512, and seven times with AVX2 (`docs/performance.md`).
    """
    return bool(instructions() & BFLOAT16)


def available_memory() -> int | None:
    """Bytes that a process may still take: free ones, or what a container's limit leaves."""
    found = [
        int(line.split()[1]) * 1024 for line in _lines(MEMINFO) if line.startswith("MemAvailable:")
    ]
    for limit, used in CGROUPS:
        numbers = [(_lines(Path(path)) or [""])[0] for path in (limit, used)]
        if all(number.isdigit() for number in numbers):
            found.append(max(0, int(numbers[0]) - int(numbers[1])))
    return min(found, default=None)


@functools.cache
def _features() -> frozenset[str]:
    return frozenset((_cpuinfo("flags") or _cpuinfo("Features") or "").split())


def _cpuinfo(field: str) -> str | None:
    """The first value of a field of /proc/cpuinfo."""
    for line in _lines(CPUINFO):
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
