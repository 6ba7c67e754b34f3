# SPDX-License-Identifier: Apache-2.0
"""Fills the cells: each picture is encoded once a condition, then asked about in every cell.

Every answer is on file before the next cell is begun, so that a run may be killed at any moment and
go on by the same command. A run may also be extended: more pictures, selectors, budgets,
precisions or conditions use the answers that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svd_vlm_ros import __version__
from svd_vlm_ros.engine import Answer, Scene, SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.cells import CLEAN, REPHRASED, Cell, corruption_of, plan_cells
from svd_vlm_ros.evaluation.corruptions import corrupt
from svd_vlm_ros.evaluation.looking import (
    look,
    relevance_of,
    see,
    selector_options,
    tokens_read,
)
from svd_vlm_ros.evaluation.records import VERSION, Folder, ShardWriter, read_folder
from svd_vlm_ros.evaluation.rephrase import rephrase
from svd_vlm_ros.evaluation.scoring import SCORING_VERSION
from svd_vlm_ros.evaluation.shown import LOOKS, asked_line, shown_lines
from svd_vlm_ros.evaluation.tasks import Item, Task

REFUSALS = 3  # pictures that a cell may refuse, from the first one on, before it is impossible
TOKEN_CAP = 1_000_000  # budgets are numbers here, an energy's cap is never used

Told = Callable[[str, int, int], None]
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
        times: pictures that are timed in each clean cell, one question alone; 0: none.
        rank, world: this process's share: pictures rank, rank + world, ...
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
        """What a cell's selector is told."""
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
    writer: ShardWriter
    folder: Folder
    told: Told
    impossible: set[Cell] = field(default_factory=set)
    done: int = 0
    total: int = 0

    def has_all(self, cell: Cell, items: Sequence[Item]) -> bool:
        """Whether nothing is left to ask in a cell."""
        return all(self.folder.has(cell.key, item.id) for item in items)

    def refuse(self, cell: Cell, picture: str, reason: str, whatever_picture: bool = False) -> None:
        """Record why a cell could not answer.

        The cell is given up where it is not the picture's fault, or after a few pictures without
        any answer.
        """
        self.write([{"record": "refused", "cell": cell.key, "picture": picture, "reason": reason}])
        refused = self.folder.refused[cell.key]
        none_yet = not self.folder.answers.get(cell.key)
        if whatever_picture or (none_yet and len(refused) >= REFUSALS):
            self.impossible.add(cell)

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Put lines on file and into memory."""
        self.writer.write(lines)
        for line in lines:
            self.folder.add(line)


def run_shard(run: Run, told: Told = lambda what, done, total: None) -> tuple[Folder, list[Cell]]:
    """Ask all that has not been asked yet, of this process's pictures.

    Returns:
        What is on file now, of all processes so far; and the cells of the run.

    Raises:
        UserError: the folder holds answers made with other settings, or another run writes to it;
            the model or a name is not known.
    """
    pictures = list(run.task.pictures().items())
    share = pictures[run.rank :: run.world]
    looked_at = {key for key, _ in pictures[:LOOKS]}
    with ShardWriter(run.out, run.rank, run.settings()) as writer:
        shard = Shard(run, writer, read_folder(run.out), told)
        cells: list[Cell] = []
        for at, precision in enumerate(run.precisions):
            cells += _run_precision(shard, precision, share, looked_at if at == 0 else set())
    return read_folder(run.out), cells


def load_engine(run: Run, precision: str) -> SceneEngine:
    """The engine that answers; it begins with all tokens."""
    return SceneEngine.load(
        run.model,
        precision=precision,
        selector="none",
        device=run.device,
        token_cap=TOKEN_CAP,
        system_prompt=run.task.system_prompt,
        seed=run.seed,
    )


def _run_precision(
    shard: Shard, precision: str, share: list[tuple[str, list[Item]]], looked_at: set[str]
) -> list[Cell]:
    run = shard.run
    shard.told(f"loading {run.model}, {precision}", shard.done, shard.total)
    engine = load_engine(run, precision)
    try:
        patches = engine.info.visual_tokens_total
        cells = plan_cells(precision, run.selectors, run.budgets, run.conditions, patches)
        shard.total += len(cells) * sum(len(items) for _, items in share)
        for key, items in share:
            _run_picture(shard, engine, cells, key, items, key in looked_at)
        _time_cells(shard, engine, [c for c in cells if c.condition == CLEAN], share)
        return cells
    finally:
        engine.close()


def _run_picture(
    shard: Shard, engine: SceneEngine, cells: list[Cell], key: str, items: list[Item], shown: bool
) -> None:
    todo = [c for c in cells if c not in shard.impossible and not shard.has_all(c, items)]
    shard.done += len(items) * (len(cells) - len(todo))
    if not todo:
        return
    try:
        clean = shard.run.task.read(key)
    except UserError as error:
        shard.write([{"record": "unread", "picture": key, "reason": str(error)}])
        shard.done += len(items) * len(todo)
        return
    if shown and key not in shard.folder.asked:
        shard.write([asked_line(key, items)])
    for condition in dict.fromkeys(cell.condition for cell in todo):
        _run_condition(
            shard, engine, [c for c in todo if c.condition == condition], key, clean, items, shown
        )


def _run_condition(
    shard: Shard,
    engine: SceneEngine,
    cells: list[Cell],
    key: str,
    clean: np.ndarray,
    items: list[Item],
    shown: bool,
) -> None:
    run = shard.run
    condition = cells[0].condition
    corruption = corruption_of(condition)
    image = corrupt(clean, *corruption, seed=f"{run.seed}/{key}") if corruption else clean
    prompts = {item.id: _prompt(item, condition, run.seed) for item in items}
    try:
        looked = look(engine, image, {cell.selector: run.options(cell) for cell in cells})
    except UserError as error:
        shard.write([{"record": "unread", "picture": key, "reason": str(error)}])
        shard.done += len(items) * len(cells)
        return
    for cell in cells:
        shard.told(f"{cell.precision} {cell.selector} {cell.tokens}", shard.done, shard.total)
        if cell not in shard.impossible:
            try:
                engine.use_selector(cell.selector, visual_tokens=cell.tokens, **run.options(cell))
            except UserError as error:
                shard.refuse(cell, key, str(error), whatever_picture=True)
                shard.done += len(items)
                continue
            try:
                scene = see(engine, looked)
                # All of the picture's questions, also where a killed run left some of the answers:
                # another batch may round otherwise in 16 bits.
                answers = engine.ask_many(
                    scene,
                    [prompts[item.id] for item in items],
                    max_new_tokens=[item.max_new_tokens for item in items],
                )
            except UserError as error:
                shard.refuse(cell, key, str(error))
            else:
                lines = [
                    _line(cell, item, answer, scene, run.task)
                    for item, answer in zip(items, answers, strict=True)
                    if not shard.folder.has(cell.key, item.id)
                ]
                if shown and condition == CLEAN:
                    lines += shown_lines(run.out, cell, key, image, scene, answers[0])
                shard.write(lines)
        shard.done += len(items)
    shard.told("", shard.done, shard.total)


def _device_kind(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.partition(":")[0]


def _prompt(item: Item, condition: str, seed: int) -> str:
    question = item.question
    if condition == REPHRASED:
        question = rephrase(question, f"{seed}/{item.id}")
    return question + item.suffix


def _line(cell: Cell, item: Item, answer: Answer, scene: Scene, task: Task) -> dict[str, Any]:
    return {
        "record": "answer",
        "cell": cell.key,
        "id": item.id,
        "picture": item.picture,
        "kind": item.kind,
        "answer": answer.text,
        "score": round(task.score(item, answer.text), 4),
        "tokens": round(tokens_read(scene, answer), 2),
    }


def _time_cells(
    shard: Shard, engine: SceneEngine, cells: list[Cell], share: list[tuple[str, list[Item]]]
) -> None:
    """Time what a user waits for: one new picture and one question, nothing shared."""
    run = shard.run
    wanted = [
        cell
        for cell in cells
        if shard.folder.answers.get(cell.key)
        and len(shard.folder.times.get(cell.key, [])) < run.times
    ]
    if run.rank or not wanted:
        return
    for key, items in share[: run.times]:
        try:
            image = run.task.read(key)
        except UserError:
            continue
        for cell in wanted:
            shard.told(f"timing {cell.selector} {cell.tokens}", shard.done, shard.total)
            engine.use_selector(cell.selector, visual_tokens=cell.tokens, **run.options(cell))
            for line in _timed(engine, image, items[0], cell, key):
                shard.write([line])


def _timed(
    engine: SceneEngine, image: np.ndarray, item: Item, cell: Cell, key: str
) -> Iterator[dict[str, Any]]:
    for warm in (False, True):  # the first time of a new shape is never the usual one
        try:
            scene = engine.see(image)
            answer = engine.ask(
                scene, item.question + item.suffix, max_new_tokens=item.max_new_tokens
            )
        except UserError:
            return
        if warm:
            yield {
                "record": "time",
                "cell": cell.key,
                "picture": key,
                "first_token": scene.timings.total + answer.timings.first_token,
                "total": scene.timings.total + answer.timings.total,
            }
