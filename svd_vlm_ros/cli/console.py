# SPDX-License-Identifier: Apache-2.0
"""What the commands print with: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

NARROW = 100  # columns if there is no terminal, as in a log: 80 would squeeze the tables


def stdout() -> Console:
    """A console for results. Made anew each time, so that a redirection of stdout holds."""
    return Console(width=None if sys.stdout.isatty() else NARROW, highlight=False)


def stderr() -> Console:
    """A console for errors and progress."""
    return Console(
        stderr=True, width=None if sys.stderr.isatty() else NARROW, highlight=False, soft_wrap=True
    )


def print_error(sentence: str) -> None:
    """Print one line on stderr: what is wrong and what to do."""
    line = " ".join(sentence.split())
    stderr().print(Text.assemble(("error: ", "bold red"), line))


def print_warning(sentence: str) -> None:
    """Print one line on stderr that does not end the command."""
    line = " ".join(sentence.split())
    stderr().print(Text.assemble(("warning: ", "bold yellow"), line))


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout, as it is: no colours, no wrapping."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Show that something is going on, on stderr and only on a terminal."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def milliseconds(seconds: float) -> str:
    """A duration for people: `0.4 ms`, `31 ms`, `2.35 s`."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 0.01:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds * 1000:.1f} ms"


def gigabytes(size: float) -> str:
    """A size in bytes for people, in units of 1000: `14.13 GB`, `12.3 MB`, `820 kB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}" if unit == "GB" else f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
