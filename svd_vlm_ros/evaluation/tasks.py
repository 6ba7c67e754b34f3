# SPDX-License-Identifier: Apache-2.0
"""What is asked: a task is a list of questions about images, with the rule that scores answers.

`catalog.open_task` makes one. A task is a value: it holds no model, and reads its images one by
one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from svd_vlm_ros.errors import UserError

TASK_NAMES = ("scout", "gqa", "textvqa")

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""What LLaVA-1.5's evaluation writes behind the questions of GQA and TextVQA."""

LLAVA_SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""The system prompt of LLaVA-1.5's evaluation (conversation template vicuna_v1)."""

LLAVA_MAX_NEW_TOKENS = 128
NAMED = 5  # of a list of missing things, how many a sentence names


@dataclass(frozen=True)
class Item:
    """One question about one image.

    Attributes:
        id: the data set's own id, unique in a task.
        image: the key of its image.
        question: what a person asked; the part that `--rephrase` may change.
        truth: the true answers: one, or those of all annotators.
        kind: the row of the table by kinds that it counts in.
        suffix: what stands behind the question in the prompt.
        max_new_tokens: the longest answer.
    """

    id: str
    image: str
    question: str
    truth: tuple[str, ...]
    kind: str
    suffix: str = ""
    max_new_tokens: int = LLAVA_MAX_NEW_TOKENS


@dataclass(frozen=True)
class Task:
    """Questions about images and the rule that scores the answers.

    Attributes:
        name: one of `TASK_NAMES`.
        items: the questions, those of one image in a row.
        read: an image by its key: uint8 [H, W, 3], RGB. `UserError`: it can't be read.
        score: of an answer's text, 0 to 1.
        protocol: in a sentence, how it is asked and scored.
        system_prompt: in front of the conversation; None: none.
        fingerprint: of the files that the questions came from: other files, other questions.
        missing: keys of images that are not there; their questions are not in `items`.
        left_out: how many questions those were.
        notes: what a reader of the result should know, in sentences.
    """

    name: str
    items: tuple[Item, ...]
    read: Callable[[str], np.ndarray]
    score: Callable[[Item, str], float]
    protocol: str
    system_prompt: str | None = None
    fingerprint: str = ""
    missing: tuple[str, ...] = ()
    left_out: int = 0
    notes: tuple[str, ...] = ()

    def images(self) -> dict[str, list[Item]]:
        """The questions of each image, images in the order of the task."""
        found: dict[str, list[Item]] = {}
        for item in self.items:
            found.setdefault(item.image, []).append(item)
        return found

    def first(self, images: int) -> Task:
        """The task with the first images only. 0: all of them."""
        keys = list(self.images())
        if not images or images >= len(keys):
            return self
        kept = frozenset(keys[:images])
        return replace(self, items=tuple(item for item in self.items if item.image in kept))


def find_file(data: Path, names: Sequence[str], what: str) -> Path:
    """The first of several places in a data set's folder that has a file. `UserError`: none has."""
    for name in names:
        if (data / name).is_file():
            return data / name
    raise UserError(f"{what} is not in {data}: it should be {' or '.join(names)} there.")


def find_folder(data: Path, names: Sequence[str], what: str) -> Path:
    """As `find_file`, for a folder."""
    for name in names:
        if (data / name).is_dir():
            return data / name
    raise UserError(f"{what} are not in {data}: they should be in {' or '.join(names)} there.")


def read_json_file(path: Path, **options: Any) -> Any:
    """The content of a JSON file. `UserError` if it is cut or no JSON at all."""
    try:
        return json.loads(path.read_text("utf-8"), **options)
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror or error}.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is cut or no JSON: fetch it again ({error}).") from error


def fingerprint(*paths: Path) -> str:
    """A short hash of the files that a task was read from."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def without_duplicates(items: Sequence[Item], path: Path) -> tuple[list[Item], int]:
    """The items with each id once, and how many repetitions were dropped.

    Raises:
        UserError: two different questions have one id: an answer to it would be of neither.
    """
    found: dict[str, Item] = {}
    for item in items:
        known = found.setdefault(item.id, item)
        if known != item:
            raise UserError(
                f"{path} has two different questions with the id {item.id} "
                f"({known.question!r} and {item.question!r}): fetch it again."
            )
    return list(found.values()), len(items) - len(found)


def split_missing(items: Sequence[Item], folder: Path) -> tuple[list[Item], tuple[str, ...]]:
    """The items whose image is there, by image, and the images that are not.

    Raises:
        UserError: none is there.
    """
    by_image: dict[str, list[Item]] = {}
    for item in items:
        by_image.setdefault(item.image, []).append(item)
    if not items:
        raise UserError("There is not one question in the data set: fetch it again.")
    there = {key for key in by_image if (folder / f"{key}.jpg").is_file()}
    if not there:
        first = next(iter(by_image))
        raise UserError(f"None of the images is in {folder}: the first would be {first}.jpg.")
    missing = tuple(key for key in by_image if key not in there)
    return [item for key, of in by_image.items() if key in there for item in of], missing


def some_of(names: Sequence[str]) -> str:
    """The first few names of a list, for a sentence."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
