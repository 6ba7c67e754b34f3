# SPDX-License-Identifier: Apache-2.0
"""What is made of the answers when a run has ended, or at any later time without running anything.

In the folder of a run: `answers-NN.jsonl` (one a process), `answers.jsonl` (all of them merged),
`results.json` (figures), `table.md` and `kinds.md` (Markdown for a page), `report.html`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.cells import Cell
from svd_vlm_ros.evaluation.records import Folder, answer_line, read_folder
from svd_vlm_ros.evaluation.results import gaps
from svd_vlm_ros.evaluation.tables import as_json, kinds_markdown, markdown
from svd_vlm_ros.models.files import find_folder, is_random

MERGED = "answers.jsonl"
SAMPLES = 512  # places of a weight file that are hashed
SAMPLE = 1 << 16  # bytes at each of them


@dataclass(frozen=True)
class Ending:
    """How a process found the folder at its end.

    Attributes:
        lacking: answers that are not there yet.
        reported: another process of the same run has merged and reported it already.
    """

    lacking: int
    reported: bool = False


def finish(
    out: Path, cells: Sequence[Cell], questions: Mapping[str, str], begun: float = math.inf
) -> Ending:
    """Merge the files of all processes once nothing is missing, and write the tables.

    Every process calls this at its end; the last one finds everything there.

    Args:
        out: the folder of answers.
        cells: of the run.
        questions: {question id: image} of the run.
        begun: when this process began, seconds since 1970.
    """
    merged = out / MERGED
    with _lock(out):
        folder = read_folder(out)
        lacking = sum(len(lost) for lost in gaps(folder, cells, questions).values())
        if lacking:
            return Ending(lacking)
        if merged.exists() and merged.stat().st_mtime > begun:
            return Ending(0, reported=True)
        write_merged(out, folder)
        write_tables(out, folder)
    return Ending(0)


def open_results(out: Path) -> Folder:
    """What a folder of answers holds. `UserError`: it holds none."""
    folder = read_folder(out) if out.is_dir() else Folder()
    if not folder.answers:
        raise UserError(f"There are no answers in {out}: run svd-vlm eval --out {out} first.")
    return folder


def write_merged(out: Path, folder: Folder) -> None:
    """All answers in one file, each once, cell by cell, behind one line of settings."""

    def lines() -> Iterator[str]:
        yield json.dumps({"record": "settings", "settings": folder.settings}, ensure_ascii=False)
        for key, answers in folder.answers.items():
            for question in sorted(answers):
                yield json.dumps(answer_line(key, question, answers[question]), ensure_ascii=False)

    _write(out / MERGED, "".join(line + "\n" for line in lines()))


def write_tables(out: Path, folder: Folder) -> None:
    """The figures and the tables."""
    _write(out / "results.json", json.dumps(as_json(folder), indent=1, ensure_ascii=False) + "\n")
    _write(out / "table.md", markdown(folder))
    kinds = kinds_markdown(folder)
    if kinds:
        _write(out / "kinds.md", kinds)


def weights_hash(model: str) -> str:
    """A short hash that changes with a model's weights, in seconds for any size.

    Of every weight file the size and `SAMPLES` places are read; small files whole.
    """
    if is_random(model):
        return "random"
    digest = hashlib.sha256()
    for path in sorted(find_folder(model).glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for at in range(0, size, max(SAMPLE, size // SAMPLES)):
                file.seek(at)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, "utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"Can't write {path}: {error.strerror or error}.") from error


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
