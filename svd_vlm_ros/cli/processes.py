# SPDX-License-Identifier: Apache-2.0
"""Running parts of this package in processes of their own, and ending them for certain."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from svd_vlm_ros.errors import UserError

INTERRUPT_GRACE = 5.0  # s that a process has after SIGINT to end by itself
TERMINATE_GRACE = 2.0  # s after SIGTERM, before SIGKILL
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies

_libc = ctypes.CDLL(None)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package with this Python."""
    return [sys.executable, "-m", module, *arguments]


def environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """The environment for a child that must import this very package. `None` removes a variable."""
    known: dict[str, str | None] = {**os.environ, **(changes or {})}
    home = (
        Path(__file__).absolute().parents[2]
    )  # a link stays one: `colcon build --symlink-install`
    found = [*site.getsitepackages(), site.getusersitepackages()]
    found += (known.get("PYTHONPATH") or "").split(os.pathsep)
    if home not in {Path(folder).absolute() for folder in found if folder}:
        known["PYTHONPATH"] = os.pathsep.join(filter(None, (known.get("PYTHONPATH"), str(home))))
    return {name: value for name, value in known.items() if value is not None}


def start(
    command: Sequence[str], log: IO[bytes], changes: Mapping[str, str | None] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: Ctrl-C reaches us alone, and we end it in order.

    Linux ends it, too, should this process be killed. Its output goes to `log`. It runs in the root
    folder: a checkout of this package in the current folder would hide the installed one, which has
    the interfaces.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment(changes),
        cwd="/",
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 (called before any thread is started)
    )


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def running(commands: Mapping[str, Sequence[str]]) -> Iterator[Callable[[], None]]:
    """Run commands, by name, while the `with` lasts; however it is left, all have ended.

    Yields a function that raises `UserError` if one of them has ended by itself, with its last
    words. SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the `with`; they wait while
    processes are started and stopped. The logs are removed, unless a `UserError` leaves the `with`:
    then its message ends with their folder.
    """
    logs = Path(tempfile.mkdtemp(prefix="svd-vlm-"))
    started: dict[str, subprocess.Popen[bytes]] = {}

    def check_alive() -> None:
        for name, process in started.items():
            if process.poll() is not None:
                words = last_words(logs / f"{name}.log")
                raise UserError(f"{name} ended with status {process.returncode}: {words}")

    with _held_signals() as hold:
        try:
            hold(True)
            for name, command in commands.items():
                with (logs / f"{name}.log").open("wb") as log:
                    started[name] = start(command, log)
            hold(False)
            yield check_alive
        except UserError as error:
            raise UserError(f"{error} (logs: {logs})") from error
        except BaseException:
            hold(True)
            shutil.rmtree(logs, ignore_errors=True)
            raise
        else:
            hold(True)
            shutil.rmtree(logs, ignore_errors=True)
        finally:
            hold(True)
            stop(started.values())


def last_words(log: Path) -> str:
    """The last line of a log that is not blank."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it printed nothing")


@contextmanager
def _held_signals() -> Iterator[Callable[[bool], None]]:
    """Turn the signals that end a program into KeyboardInterrupt, and hold them back at will.

    Yields the function that holds them (True) or lets them through (False), with any that came
    meanwhile.
    """
    held, arrived = False, False

    def take(*_: object) -> None:
        nonlocal arrived
        arrived = True
        if not held:
            raise KeyboardInterrupt

    def hold(wanted: bool) -> None:
        nonlocal held
        held = wanted
        if arrived and not held:
            raise KeyboardInterrupt

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, take) for number in wanted}
    try:
        yield hold
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """End processes: SIGINT, then SIGTERM, then SIGKILL. Returns when they are gone."""
    left = list(processes)
    for wanted, grace in (
        (signal.SIGINT, INTERRUPT_GRACE),
        (signal.SIGTERM, TERMINATE_GRACE),
        (signal.SIGKILL, None),
    ):
        left = [process for process in left if process.poll() is None]
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, wanted)
        end = None if grace is None else time.monotonic() + grace
        for process in left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(None if end is None else max(end - time.monotonic(), 0))
