# SPDX-License-Identifier: Apache-2.0
"""The answers of a folder, as its journals record them.

A run writes `answers-NN.jsonl`, one `Journal` a process (NN is its rank). A line that is broken in
the middle of a file is named, and what it recorded is done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.journal import differences, read_records

VERSION = 1  # of these lines; another version is refused
PATTERN = "answers-*.jsonl"


class Scored(NamedTuple):
    """An answer as it is kept: of which image and kind, the text, its score, tokens it read."""

    image: str
    kind: str
    answer: str
    score: float
    tokens: float


@dataclass
class Folder:
    """All records of a folder.

    Attributes:
        settings: what the answers were made with; {} if there are no files.
        answers: {cell key: {question id: answer}}.
        refused: {cell key: {image: reason}}: the selector or model could not do it.
        unread: {image: reason}: the image could not be read.
        times: {cell key: [seconds of each timed answer]}.
        looks: lines about what was kept in the images of the report.
        asked: {image: {question id: (question, true answer)}} of those images.
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
        sentences = []
        if self.broken:
            sentences.append(f"Broken lines were left out: {'; '.join(self.broken)}.")
        if self.duplicates:
            sentences.append(
                f"{self.duplicates} questions were answered twice: the first answer counts."
            )
        return sentences

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
                differing = differences(self.settings, line["settings"])
                raise UserError(
                    f"Two files of answers in one folder have different settings ({differing}): "
                    "give all processes of a run the same options, or name another --out."
                )
            self.settings = line["settings"]


def answer_line(cell: str, question: str, scored: Scored) -> dict[str, Any]:
    """The line of an answer. In the files an image is called "picture"."""
    return {
        "record": "answer",
        "cell": cell,
        "id": question,
        "picture": scored.image,
        "kind": scored.kind,
        "answer": scored.answer,
        "score": scored.score,
        "tokens": scored.tokens,
    }


def shard_path(folder: Path, rank: int) -> Path:
    """The file of one process."""
    return folder / f"answers-{rank:02d}.jsonl"


def read_folder(folder: Path) -> Folder:
    """Read all files of answers, those that are being written too.

    Raises:
        UserError: the files were made with different settings, or by another version.
    """
    found = Folder()
    for path in sorted(folder.glob(PATTERN)):
        for number, line in read_records(path):
            try:
                found.add(line or {})
            except (KeyError, TypeError):
                found.broken.append(f"{path.name}, line {number}")
    return found
