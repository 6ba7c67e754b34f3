# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm` as a user runs it, and how it ended."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it printed on stderr, without empty lines."""
        return [line for line in self.err.splitlines() if line.strip()]


def run_svd_vlm(*arguments: object, timeout: float = 110, **environment: str) -> Ran:
    """Run `svd-vlm` in a process of its own, offline unless `environment` names a hub."""
    known = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-m", "svd_vlm_ros.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={name: value for name, value in known.items() if value},
        cwd="/",  # never the checkout, whose package has no compiled interfaces
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def svd_vlm():
    """The function that runs `svd-vlm` in a process of its own."""
    return run_svd_vlm
