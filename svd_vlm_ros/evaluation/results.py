# SPDX-License-Identifier: Apache-2.0
"""From answers to figures: accuracy with its interval, differences, gaps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from svd_vlm_ros.evaluation.cells import Cell
from svd_vlm_ros.evaluation.records import Folder, Scored

Z95 = 1.96


@dataclass(frozen=True)
class Figure:
    """A mean over questions.

    Attributes:
        mean: in percent (accuracy), or in points (a difference of two).
        interval: half of its 95 % interval, in points.
        questions: how many.
        images: how many images these were about.
    """

    mean: float
    interval: float
    questions: int
    images: int


@dataclass(frozen=True)
class CellResult:
    """What came out in a cell.

    Attributes:
        cell: which.
        accuracy: over all its questions; None if none was answered.
        kinds: over the questions of each kind.
        tokens: visual tokens that the answers read, the mean over layers and answers.
        missing: questions of the run that have no answer in this cell.
        reason: why they have none, in a sentence; "" if the run is not finished.
        first_token: median seconds from a new image to the first token; None: not timed.
    """

    cell: Cell
    accuracy: Figure | None
    kinds: Mapping[str, Figure]
    tokens: float
    missing: int
    reason: str
    first_token: float | None


@dataclass(frozen=True)
class Results:
    """All cells of a folder, in order, with what they have in common.

    Attributes:
        settings: of the folder.
        cells: the results, by cell.
        unread: images that could not be read, with the reason.
        notes: what a reader should know, in sentences.
    """

    settings: Mapping[str, Any]
    cells: Mapping[Cell, CellResult]
    unread: Mapping[str, str]
    notes: tuple[str, ...]


def figure(scores: Iterable[tuple[str, float]]) -> Figure | None:
    """The mean of scores with its 95 % interval, from (image, score) pairs.

    Questions about one image are right or wrong together, so that images, not questions, are
    the independent draws: the standard error is that of a ratio of sums over images (the cluster
    estimator). With as many images as questions it is the usual one.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for image, score in scores:
        sums[image] = sums.get(image, 0.0) + score
        counts[image] = counts.get(image, 0) + 1
    if not sums:
        return None
    total, images = sum(counts.values()), len(sums)
    mean = sum(sums.values()) / total
    spread = sum((sums[key] - mean * counts[key]) ** 2 for key in sums)
    error = math.sqrt(spread * images / max(1, images - 1)) / total
    return Figure(100 * mean, 100 * Z95 * error, total, images)


def collect(folder: Folder) -> Results:
    """Count a folder's answers."""
    cells = [Cell.from_key(key) for key in {**folder.answers, **folder.refused}]
    questions = {q for answers in folder.answers.values() for q in answers}
    found = {cell: _count(cell, folder, len(questions)) for cell in sorted(cells, key=_order)}
    return Results(folder.settings, found, dict(folder.unread), tuple(folder.warnings()))


def _order(cell: Cell) -> tuple[str, bool, str, int]:
    return (cell.precision, cell.condition != "clean", cell.condition, -cell.tokens)


def _count(cell: Cell, folder: Folder, questions: int) -> CellResult:
    answers = folder.answers.get(cell.key, {})
    kinds: dict[str, list[Scored]] = {}
    for scored in answers.values():
        kinds.setdefault(scored.kind, []).append(scored)
    by_kind = {kind: figure((s.image, s.score) for s in of) for kind, of in kinds.items()}
    reasons = folder.refused.get(cell.key, {})
    times = [line["first_token"] for line in folder.times.get(cell.key, [])]
    return CellResult(
        cell=cell,
        accuracy=figure((s.image, s.score) for s in answers.values()),
        kinds={kind: found for kind, found in by_kind.items() if found is not None},
        tokens=sum(s.tokens for s in answers.values()) / max(1, len(answers)),
        missing=questions - len(answers),
        reason=next(iter(reasons.values()), ""),
        first_token=median(times) if times else None,
    )


def difference(folder: Folder, cell: Cell, other: Cell) -> Figure | None:
    """How many points a cell is above another, over the questions that both answered.

    Paired: the same question is asked in both, so that the interval of the difference is far
    smaller than the two cells' own intervals would let one think.
    """
    ours, theirs = folder.answers.get(cell.key, {}), folder.answers.get(other.key, {})
    return figure(
        (ours[question].image, ours[question].score - theirs[question].score)
        for question in ours
        if question in theirs
    )


def gaps(
    folder: Folder, cells: Iterable[Cell], questions: Mapping[str, str]
) -> dict[Cell, list[str]]:
    """The questions that a cell has neither answered nor a reason for.

    Args:
        folder: what is on file.
        cells: those of the run.
        questions: {question id: image} of the run.
    """
    found: dict[Cell, list[str]] = {}
    for cell in cells:
        answers = folder.answers.get(cell.key, {})
        reasons = {**folder.refused.get(cell.key, {}), **folder.unread}
        if not answers and cell.key in folder.refused:
            continue  # impossible from its first image on
        lacking = [q for q, p in questions.items() if q not in answers and p not in reasons]
        if lacking:
            found[cell] = lacking
    return found
