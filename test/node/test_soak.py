# SPDX-License-Identifier: Apache-2.0
"""Three cameras, four clients and faults for some seconds; SOAK_MINUTES=3 for minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

SOAK = Path(__file__).resolve().parents[2] / "benchmark" / "soak.py"
MINUTES = float(os.environ.get("SOAK_MINUTES", "0.2"))


@pytest.mark.timeout(400 + 60 * MINUTES)
def test_every_request_ends_and_is_about_the_right_image(tmp_path: Path) -> None:
    out = tmp_path / "soak"
    short = ("--fault-every", "3", "--width", "640", "--height", "480", "--rate", "10")
    options = short if MINUTES < 1 else ()
    run = subprocess.run(
        [sys.executable, SOAK, "--minutes", str(MINUTES), "--out", out, *options],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    log = Path(f"{out}.log").read_text()
    report = json.loads(Path(f"{out}.json").read_text())
    totals, found = report["totals"], report["clients"]
    seen = f"{totals}\n{found.get('wrong')}\n{report['ended']}\n{run.stderr}"
    assert run.returncode == 0, f"{log[-3000:]}\n{seen}"
    each = found["each"]
    for harm in ("lost", "wrong_header", "wrong_picture", "too_old", "facts_late"):
        assert totals[harm] == 0, found["wrong"]
    assert all(client["sent"] for client in each.values())
    assert each["ask"]["by_status"]["OK"]
    assert each["stream"]["by_status"]["OK"]
    assert each["cancel"]["by_status"]["CANCELED"]
    assert each["time out"]["by_status"]["TIMEOUT"]
    assert report["node"]["faults"], "faults were injected"
    assert "| ask |" in Path(f"{out}.md").read_text()
