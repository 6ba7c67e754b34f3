# SPDX-License-Identifier: Apache-2.0
"""The tables: Markdown that can go into a page as it is, and the same figures as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from svd_vlm_ros.evaluation.cells import CLEAN, KEEP_ALL, Cell
from svd_vlm_ros.evaluation.published import NO_IMAGE, published
from svd_vlm_ros.evaluation.records import Folder
from svd_vlm_ros.evaluation.results import CellResult, Figure, Results, collect, difference

REFERENCE = "svd"  # what the others are compared with: SVD-Prune as published
BY_TEXT = frozenset({"trim", "cdpruner"})  # which compare image and question by CLIP
SAME = "="
LAYER_MEAN = 0.02  # a realised number of tokens that is further off its budget gets a note


def markdown(folder: Folder) -> str:
    """All tables of a folder, with what a reader has to know about them."""
    results = collect(folder)
    parts = [_protocol(results)]
    precisions = dict.fromkeys(cell.precision for cell in results.cells)
    for precision in precisions:
        grid = Grid(results, precision)
        heading = f"### Accuracy, {precision}" if len(precisions) > 1 else "### Accuracy"
        parts += [heading, grid.accuracy(), *grid.below()]
        paired = grid.differences(folder)
        if paired:
            parts += [
                f"### Points above or below `{REFERENCE}`",
                "Paired: over the same questions, so that the intervals are those of the "
                "difference.",
                paired,
            ]
        kept = grid.shares()
        if kept:
            parts += ["### Percent of the accuracy with all tokens", kept]
        falls = grid.conditions(folder)
        if falls:
            parts += ["### Under other conditions", *falls]
    return "\n\n".join(parts) + "\n"


def kinds_markdown(folder: Folder) -> str:
    """Accuracy a kind of question, one table a precision and budget; "" if there is one kind."""
    results = collect(folder)
    parts = []
    for precision in dict.fromkeys(cell.precision for cell in results.cells):
        grid = Grid(results, precision)
        for budget in grid.budgets:
            table = grid.kinds(budget)
            if table:
                parts += [f"### {budget} tokens, {precision}", table]
    return "\n\n".join(parts) + "\n" if parts else ""


class Grid:
    """The clean cells of one precision as selectors x budgets, and what is compared with them."""

    def __init__(self, results: Results, precision: str) -> None:
        self._task = str(results.settings.get("task", ""))
        self._cells = {c: r for c, r in results.cells.items() if c.precision == precision}
        clean = [cell for cell in self._cells if cell.condition == CLEAN]
        self.precision = precision
        self.budgets = sorted({cell.tokens for cell in clean}, reverse=True)
        names = dict.fromkeys(cell.selector for cell in clean)
        self.selectors = sorted(names, key=self._order)
        self._notes: list[str] = []
        self._impossible: dict[str, int] = {}  # selector -> the place of its note

    def get(self, selector: str, tokens: int, condition: str = CLEAN) -> CellResult | None:
        """One cell's result."""
        return self._cells.get(Cell(self.precision, selector, tokens, condition))

    def full(self) -> CellResult | None:
        """The cell with all tokens."""
        return next((r for c, r in self._cells.items() if _is_full(c)), None)

    def accuracy(self) -> str:
        """Selectors x budgets, ± the 95 % interval, published figures in brackets."""
        return self._table(self._accuracy)

    def differences(self, folder: Folder) -> str:
        """Points above the reference selector, paired; "" if it was not run."""
        if REFERENCE not in self.selectors:
            return ""

        def text(selector: str, tokens: int) -> str:
            cell = Cell(self.precision, selector, tokens)
            against = Cell(self.precision, REFERENCE, tokens)
            if selector == KEEP_ALL or cell == against:
                return ""
            found = difference(folder, cell, against)
            return f"{found.mean:+.1f} ± {found.interval:.1f}" if found else ""

        names = [n for n in self.selectors if n not in (KEEP_ALL, REFERENCE)]
        budgets = [b for b in self.budgets if self.get(REFERENCE, b)]
        return (
            _table(["selector", *map(str, budgets)], _rows(names, budgets, text)) if names else ""
        )

    def shares(self) -> str:
        """Percent of the accuracy with all tokens; "" if those were not run."""
        full = self.full()
        if full is None or full.accuracy is None or not full.accuracy.mean:
            return ""
        whole = full.accuracy.mean

        def text(selector: str, tokens: int) -> str:
            found = self.get(selector, tokens)
            mean = found.accuracy.mean if found and found.accuracy else None
            return "" if mean is None else f"{100 * mean / whole:.1f}"

        names = [name for name in self.selectors if name != KEEP_ALL]
        budgets = [b for b in self.budgets if b != full.cell.tokens]
        return (
            _table(["selector", *map(str, budgets)], _rows(names, budgets, text)) if names else ""
        )

    def kinds(self, tokens: int) -> str:
        """Kinds of questions x selectors at one budget; "" if there is one kind only."""
        found = {n: r for n in self.selectors if (r := self.get(n, tokens)) and r.accuracy}
        kinds = list(dict.fromkeys(kind for r in found.values() for kind in r.kinds))
        if len(kinds) < 2:
            return ""

        def text(kind: str, at: int) -> str:
            figure = list(found.values())[at].kinds.get(kind)
            return "" if figure is None else f"{figure.mean:.1f}"

        return _table(["question", *found], _rows(kinds, range(len(found)), text))

    def conditions(self, folder: Folder) -> list[str]:
        """How accuracy falls: conditions x cells, with the paired difference to the clean ones."""
        conditions = list(dict.fromkeys(c.condition for c in self._cells if c.condition != CLEAN))
        if not conditions:
            return []
        ways = list(dict.fromkeys((c.selector, c.tokens) for c in self._cells))
        ways.sort(key=lambda way: (way[0] != KEEP_ALL, -way[1], self.selectors.index(way[0])))

        def text(condition: str, way: tuple[str, int]) -> str:
            found = self.get(*way, condition)
            if found is None or found.accuracy is None:
                return ""
            cell = found.cell
            fall = difference(folder, cell, Cell(self.precision, *way))
            return f"{found.accuracy.mean:.1f}" + (f" ({fall.mean:+.1f})" if fall else "")

        def clean(condition: str, way: tuple[str, int]) -> str:
            found = self.get(*way)
            return f"{found.accuracy.mean:.1f}" if found and found.accuracy else ""

        rows = [*_rows([CLEAN], ways, clean), *_rows(conditions, ways, text)]
        heads = [f"{selector} {tokens}" for selector, tokens in ways]
        return [
            "Accuracy, in brackets the points lost to the clean image and wording (paired).",
            _table(["condition", *heads], rows),
        ]

    def below(self) -> list[str]:
        """What stands below the table of accuracies, after it was made."""
        return ["\n".join(self._notes)] if self._notes else []

    def _accuracy(self, selector: str, tokens: int) -> str:
        found = self.get(selector, tokens)
        if found is None:
            full = self.full()
            same = full is not None and tokens == full.cell.tokens and selector != KEEP_ALL
            return SAME if same else ""
        if found.accuracy is None:
            return f"— {self._note_impossible(selector, tokens, found.reason)}"
        text = plain(found.accuracy)
        known = published(self._task, selector, tokens)
        if known:
            text += f" ({'; '.join(f'{value:g}' for value in known)})"
        if found.missing:
            why = found.reason or "the run is not finished"
            note = f"`{selector}` at {tokens}: {found.missing} questions have no answer: {why}"
            text += f" {self._note(note)}"
        if abs(found.tokens - tokens) > LAYER_MEAN * tokens:
            note = (
                f"`{selector}` at {tokens}: reads {found.tokens:.1f} tokens, the mean over layers"
            )
            text += f" {self._note(note)}"
        return text

    def _note_impossible(self, selector: str, tokens: int, reason: str) -> str:
        """One note a selector: the reason at its largest impossible budget, then the others."""
        at = self._impossible.get(selector)
        if at is None:
            self._impossible[selector] = len(self._notes)
            return self._note(f"`{selector}` at {tokens}: {reason}")
        self._notes[at] += f" Neither at {tokens}."
        return f"[{at + 1}]"

    def _note(self, text: str) -> str:
        self._notes.append(f"{len(self._notes) + 1}. {text.rstrip('.')}.")
        return f"[{len(self._notes)}]"

    def _table(self, text: Callable[[str, int], str]) -> str:
        rows = _rows(self.selectors, self.budgets, text)
        return _table(["selector", *map(str, self.budgets)], rows)

    def _order(self, selector: str) -> tuple[bool, int, float]:
        """For the order of rows: all tokens first, then by possible budgets, then by accuracy."""
        means = [
            r.accuracy.mean
            for c, r in self._cells.items()
            if c.selector == selector and c.condition == CLEAN and r.accuracy
        ]
        return selector != KEEP_ALL, -len(means), -sum(means) / max(1, len(means))


def plain(figure: Figure) -> str:
    """A mean with its interval: "53.5 ± 0.6"."""
    return f"{figure.mean:.1f} ± {figure.interval:.1f}"


def as_json(folder: Folder) -> dict[str, Any]:
    """The figures for programs: percent and points, seconds."""
    results = collect(folder)
    cells = []
    for cell, found in results.cells.items():
        against = Cell(cell.precision, REFERENCE, cell.tokens, cell.condition)
        paired = difference(folder, cell, against) if cell != against else None
        cells.append(
            {
                **asdict(cell),
                "accuracy": _figure(found.accuracy),
                "kinds": {kind: _figure(figure) for kind, figure in found.kinds.items()},
                "tokens_read": found.tokens,
                "missing": found.missing,
                "reason": found.reason,
                "first_token_seconds": found.first_token,
                f"above_{REFERENCE}": _figure(paired),
                "published": published(
                    str(results.settings.get("task")), cell.selector, cell.tokens
                ),
            }
        )
    return {
        "settings": dict(results.settings),
        "unread_pictures": dict(results.unread),
        "notes": list(results.notes),
        "cells": cells,
    }


def _figure(figure: Figure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    return {
        "mean": figure.mean,
        "interval": figure.interval,
        "questions": figure.questions,
        "pictures": figure.images,
    }


def _protocol(results: Results) -> str:
    settings = results.settings
    asked = [r.accuracy for r in results.cells.values() if r.accuracy]
    questions = max((figure.questions for figure in asked), default=0)
    images = max((figure.images for figure in asked), default=0)
    sentences = [
        f"{settings.get('protocol', '')}",
        f"Model: {settings.get('model')}. {questions} questions about {images} images in every "
        "cell; accuracy in percent ± half of the 95 % interval (images, not questions, counted "
        "as independent).",
    ]
    if any(_is_full(cell) for cell in results.cells):
        sentences.append(f"`{SAME}`: nothing to choose, as in the row `{KEEP_ALL}`.")
    by_text = {cell.selector for cell in results.cells} & BY_TEXT
    if settings.get("relevance") == "words" and by_text:
        sentences.append(
            "This model has no CLIP text tower: "
            f"{' and '.join(f'`{name}`' for name in sorted(by_text))} compare image and question "
            "by the language model's own word embeddings here, which no paper has tried."
        )
    task = str(settings.get("task"))
    if task in NO_IMAGE:
        sentences.append(
            "In brackets what is published for LLaVA-1.5-7B: the method's own paper, then others' "
            f"re-run. Without any image that model has {NO_IMAGE[task]}."
        )
    if results.unread:
        sentences.append(f"Images that could not be read: {', '.join(results.unread)}.")
    return " ".join([*sentences, *results.notes])


def _is_full(cell: Cell) -> bool:
    return cell.selector == KEEP_ALL and cell.condition == CLEAN


def _rows(
    names: Iterable[str], columns: Iterable[Any], text: Callable[[str, Any], str]
) -> list[list[str]]:
    columns = list(columns)
    return [[name, *(text(name, column) for column in columns)] for name in names]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
