# SPDX-License-Identifier: Apache-2.0
"""Processes that are started are ended, however unwilling they or we are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from svd_vlm_ros.cli import processes
from svd_vlm_ros.errors import UserError

SLEEPER = "import time; print('ready', flush=True); time.sleep(99)"
STUBBORN = "import signal; signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN);"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that nobody waited for is gone as well.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_for(done, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def started_ready(code: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        process = processes.start(python(code + SLEEPER), stream)
    wait_for(lambda: b"ready" in log.read_bytes())
    return process


def test_a_willing_and_a_stubborn_process_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "INTERRUPT_GRACE", 4.0)  # on a busy machine Python ends slowly
    monkeypatch.setattr(processes, "TERMINATE_GRACE", 0.2)
    willing = started_ready("", tmp_path / "willing")
    stubborn = started_ready(STUBBORN, tmp_path / "stubborn")
    processes.stop([willing, stubborn])
    assert stubborn.returncode == -signal.SIGKILL
    assert willing.returncode in (1, -signal.SIGINT)
    assert not is_there(willing.pid)


def test_a_process_that_ends_by_itself_is_noticed_with_its_last_words() -> None:
    commands = {"camera": python(SLEEPER), "node": python("raise SystemExit('no weights\\n')")}
    with pytest.raises(UserError, match=r"node ended with status 1: no weights \(logs: ") as caught:
        run_until_something_ends(commands)
    logs = Path(str(caught.value).split("(logs: ")[1].rstrip(")"))
    assert (logs / "node.log").read_text() == "no weights\n\n"
    shutil.rmtree(logs)


def run_until_something_ends(commands: dict[str, list[str]]) -> None:
    with processes.running(commands) as check_alive:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            check_alive()
            time.sleep(0.02)


RUN_TWO = f"""
import sys, time
from svd_vlm_ros.cli import processes
commands = {{name: [sys.executable, "-c", {SLEEPER!r}] for name in ("one", "two")}}
begun = []
start = processes.start
def noted(*arguments):
    begun.append(start(*arguments))
    return begun[-1]
processes.start = noted
with processes.running(commands):
    print(*[process.pid for process in begun], flush=True)
    time.sleep(99)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name
)
def test_however_we_are_ended_nothing_is_left(number: signal.Signals) -> None:
    ours = subprocess.Popen(
        python(RUN_TWO),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=processes.environment(),
        text=True,
    )
    assert ours.stdout is not None
    pids = [int(word) for word in ours.stdout.readline().split()]
    assert len(pids) == 2
    assert all(is_there(pid) for pid in pids)
    ours.send_signal(number)
    ours.communicate(timeout=60)
    assert ours.returncode != 0
    wait_for(lambda: not any(is_there(pid) for pid in pids))


def test_signals_wait_while_processes_are_stopped() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with processes._held_signals() as hold:
        hold(True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)  # in peace
        with pytest.raises(KeyboardInterrupt):
            hold(False)
    assert signal.getsignal(signal.SIGTERM) is before
