# SPDX-License-Identifier: Apache-2.0
"""The files of answers: JSON lines that survive a kill at any moment.

A run writes `answers-NN.jsonl`, one file a process (NN is its rank). The first line records the
settings, every other line one thing that was found out. A line counts once its newline is there:
what a killed run left behind the last newline is cut off when that file is opened again, and done
again. A line that is broken in the middle of a file is named, and what it said is done again.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from svd_vlm_ros.errors import UserError

VERSION = 1  # of these lines; another version is refused
PATTERN = "answers-*.jsonl"


class Scored(NamedTuple):
    """An answer as it is kept: of which picture and kind, the text, its score, tokens it read."""

    picture: str
    kind: str
    answer: str
    score: float
    tokens: float


@dataclass
class Folder:
    """All that the files of a folder say.

    Attributes:
        settings: what the answers were made with; {} where there are no files.
        answers: {cell key: {question id: answer}}.
        refused: {cell key: {picture: reason}}: the selector or model could not do it.
        unread: {picture: reason}: the picture could not be read.
        times: {cell key: [seconds of each timed answer]}.
        looks: lines about what was kept in the pictures of the report.
        asked: {picture: {question id: (question, true answer)}} of those pictures.
        duplicates: answers that were there twice; the first one counts.
        broken: "file, line N" of lines that are no JSON.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, dict[str, Scored]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    times: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    looks: list[dict[str, Any]] = field(default_factory=list)
    asked: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    duplicates: int = 0
    broken: list[str] = field(default_factory=list)

    def warnings(self) -> list[str]:
        """What a reader of the result should know about the files, in sentences."""
        said = []
        if self.broken:
            said.append(f"Broken lines were left out: {'; '.join(self.broken)}.")
        if self.duplicates:
            said.append(
                f"{self.duplicates} questions were answered twice: the first answer counts."
            )
        return said

    def has(self, cell: str, question: str) -> bool:
        """Whether a question has been answered in a cell."""
        return question in self.answers.get(cell, {})

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in one line."""
        kind = line["record"]
        if kind == "answer":
            cell = self.answers.setdefault(line["cell"], {})
            if line["id"] in cell:
                self.duplicates += 1
                return
            cell[line["id"]] = Scored(
                line["picture"], line["kind"], line["answer"], line["score"], line["tokens"]
            )
        elif kind == "refused":
            self.refused.setdefault(line["cell"], {})[line["picture"]] = line["reason"]
        elif kind == "unread":
            self.unread[line["picture"]] = line["reason"]
        elif kind == "time":
            self.times.setdefault(line["cell"], []).append(dict(line))
        elif kind == "asked":
            asked = {q: (text, true) for q, text, true in line["questions"]}
            self.asked[line["picture"]] = asked
        elif kind == "look":
            self.looks.append(dict(line))
        elif kind == "settings":
            if self.settings and self.settings != line["settings"]:
                raise UserError(_differ("Two files of answers in one folder", self.settings, line))
            self.settings = line["settings"]


def shard_path(folder: Path, rank: int) -> Path:
    """The file of one process."""
    return folder / f"answers-{rank:02d}.jsonl"


def read_folder(folder: Path) -> Folder:
    """Read all files of answers. An unfinished last line is not there yet, whoever is writing it.

    Raises:
        UserError: the files were made with different settings, or by another version.
    """
    found = Folder()
    for path in sorted(folder.glob(PATTERN)):
        for number, line in _lines(path):
            if line is None:
                found.broken.append(f"{path.name}, line {number}")
                continue
            try:
                found.add(line)
            except (KeyError, TypeError):
                found.broken.append(f"{path.name}, line {number}")
    return found


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if not data.endswith(b"\n"):
                return
            try:
                line = json.loads(data)
            except ValueError:
                line = None
            yield number, line if isinstance(line, dict) else None


class ShardWriter:
    """Appends lines to one process's file. One writer a file: a second one is refused."""

    def __init__(self, folder: Path, rank: int, settings: Mapping[str, Any]) -> None:
        """Open the file, cut off an unfinished last line, and write or check the settings.

        Raises:
            UserError: another run writes here, the settings differ, or the folder can't be made.
        """
        path = shard_path(folder, rank)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
        except OSError as error:
            raise UserError(f"Can't write to {path}: {error.strerror or error}.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"Another run is writing to {path}: wait for it or stop it.") from None
        self._cut_unfinished()
        known = next((line for _, line in _lines(path) if line), None)
        if known is None:
            self.write([{"record": "settings", "settings": dict(settings)}])
        elif known.get("settings") != settings:
            self.close()
            raise UserError(_differ(f"The answers in {folder}", dict(settings), known))

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Append lines. They are with the operating system when this returns."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._file.write(text.encode())
        self._file.flush()

    def close(self) -> None:
        """Close the file and let others write to it."""
        self._file.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cut_unfinished(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)


def _differ(where: str, ours: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    theirs = line.get("settings") or {}
    names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
    shown = "; ".join(f"{n}: {theirs.get(n)!r}, not {ours.get(n)!r}" for n in names[:3])
    return f"{where} were made with other settings ({shown}): name another --out, or go on as then."
