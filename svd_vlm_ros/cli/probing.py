# SPDX-License-Identifier: Apache-2.0
"""Running the doctor's probes in processes of their own, whatever becomes of them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svd_vlm_ros.cli.processes import environment, module_command


@dataclass(frozen=True)
class Outcome:
    """How a probe ended: with what it found, or with the words of its failure."""

    found: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def run_probe(name: str, *arguments: str, limit: float = 120.0) -> Outcome:
    """Run a probe in a process of its own, for at most `limit` seconds."""
    command = module_command("svd_vlm_ros.cli.probes", name, *arguments)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            env=environment(),
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(error=f"no result within {limit:.0f} s")
    return read_outcome(done.returncode, done.stdout, done.stderr)


def read_outcome(status: int, stdout: str, stderr: str) -> Outcome:
    """What a probe's process printed: its last line is JSON unless it crashed."""
    lines = stdout.splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        found = None
    if isinstance(found, dict):
        return Outcome(error=found["error"]) if "error" in found else Outcome(found)
    last = next(
        (line for line in reversed(stderr.splitlines()) if line.strip()), "it printed nothing"
    )
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return Outcome(error=f"the process was ended by {name} ({last})")
    return Outcome(error=f"the process ended with status {status} ({last})")
