# SPDX-License-Identifier: Apache-2.0
"""What is to be run, and one process's share of it with what it has found out so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from svd_vlm_ros import __version__
from svd_vlm_ros.evaluation.cells import Cell
from svd_vlm_ros.evaluation.looking import relevance_of, selector_options
from svd_vlm_ros.evaluation.records import VERSION, Folder
from svd_vlm_ros.evaluation.scoring import SCORING_VERSION
from svd_vlm_ros.evaluation.tasks import Item, Task
from svd_vlm_ros.journal import Journal

REFUSALS = 3  # images that a cell may refuse, from the first one on, before it is impossible

OnStep = Callable[[str, int, int], None]
"""Called with what is being done, answers that are there, and answers that there will be."""


@dataclass(frozen=True)
class Run:
    """What to run.

    Attributes:
        task: the questions.
        model, device, seed: see `SceneEngine.load`. The seed is also that of corruptions, wordings
            and the selector `random`.
        precisions, selectors, budgets, conditions: what to combine, see `plan_cells`.
        out: the folder of answers.
        weights: a hash of the model's files.
        times: images that are timed in each clean cell, one question alone; 0: none.
        rank, world: this process's share: images rank, rank + world, ...
    """

    task: Task
    model: str
    precisions: tuple[str, ...]
    selectors: tuple[str, ...]
    budgets: tuple[int, ...]
    conditions: tuple[str, ...]
    out: Path
    weights: str = ""
    device: str = "auto"
    seed: int = 0
    times: int = 0
    rank: int = 0
    world: int = 1

    def options(self, cell: Cell) -> dict[str, Any]:
        """The options of a cell's selector."""
        return selector_options(cell.selector, self.model, self.seed)

    def settings(self) -> dict[str, Any]:
        """What all answers of a folder have in common; anything else may differ between runs."""
        return {
            "version": VERSION,
            "scoring": SCORING_VERSION,
            "package": __version__,
            "task": self.task.name,
            "protocol": self.task.protocol,
            "questions": self.task.fingerprint,
            "model": self.model,
            "weights": self.weights,
            "device": _device_kind(self.device),
            "seed": self.seed,
            "relevance": relevance_of(self.model),
        }


@dataclass
class Shard:
    """One process's part of a run while it runs."""

    run: Run
    journal: Journal
    folder: Folder
    on_step: OnStep
    impossible: set[Cell] = field(default_factory=set)
    done: int = 0
    total: int = 0

    def has_all(self, cell: Cell, items: Sequence[Item]) -> bool:
        """Whether nothing is left to ask in a cell."""
        return all(self.folder.has(cell.key, item.id) for item in items)

    def refuse(self, cell: Cell, image: str, reason: str, every_image: bool = False) -> None:
        """Record why a cell could not answer.

        The cell is given up if the reason holds for every image, or after a few images without any
        answer.
        """
        self.write([{"record": "refused", "cell": cell.key, "picture": image, "reason": reason}])
        refused = self.folder.refused[cell.key]
        none_yet = not self.folder.answers.get(cell.key)
        if every_image or (none_yet and len(refused) >= REFUSALS):
            self.impossible.add(cell)

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Put lines on file and into memory."""
        self.journal.write(lines)
        for line in lines:
            self.folder.add(line)


def _device_kind(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.partition(":")[0]
