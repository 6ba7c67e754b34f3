# SPDX-License-Identifier: Apache-2.0
"""Fills the cells: each image is encoded once a condition, then asked about in every cell.

Every answer is on file before the next cell is begun, so that a run may be killed at any moment and
go on by the same command. A run may also be extended: more images, selectors, budgets,
precisions or conditions use the answers that are there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_vlm_ros.engine import Answer, Scene, SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.cells import CLEAN, REPHRASED, Cell, corruption_of, plan_cells
from svd_vlm_ros.evaluation.corruptions import corrupt
from svd_vlm_ros.evaluation.looking import look, see, tokens_read
from svd_vlm_ros.evaluation.records import Folder, Scored, answer_line, read_folder, shard_path
from svd_vlm_ros.evaluation.rephrase import rephrase
from svd_vlm_ros.evaluation.runs import OnStep, Run, Shard
from svd_vlm_ros.evaluation.shown import LOOKS, asked_line, shown_lines
from svd_vlm_ros.evaluation.tasks import Item, Task
from svd_vlm_ros.evaluation.timing import time_cells
from svd_vlm_ros.journal import Journal

TOKEN_CAP = 1_000_000  # budgets are numbers here, an energy's cap is never used


def run_shard(
    run: Run, on_step: OnStep = lambda what, done, total: None
) -> tuple[Folder, list[Cell]]:
    """Ask all that has not been asked yet, of this process's images.

    Returns:
        What is on file now, of all processes so far; and the cells of the run.

    Raises:
        UserError: the folder holds answers made with other settings, or another run writes to it;
            the model or a name is not known.
    """
    images = list(run.task.images().items())
    share = images[run.rank :: run.world]
    looked_at = {key for key, _ in images[:LOOKS]}
    with Journal(shard_path(run.out, run.rank), run.settings()) as journal:
        shard = Shard(run, journal, read_folder(run.out), on_step)
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
    shard.on_step(f"loading {run.model}, {precision}", shard.done, shard.total)
    engine = load_engine(run, precision)
    try:
        patches = engine.info.visual_tokens_total
        cells = plan_cells(precision, run.selectors, run.budgets, run.conditions, patches)
        shard.total += len(cells) * sum(len(items) for _, items in share)
        for key, items in share:
            _run_image(shard, engine, cells, key, items, key in looked_at)
        time_cells(shard, engine, [c for c in cells if c.condition == CLEAN], share)
        return cells
    finally:
        engine.close()


def _run_image(
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
        shard.on_step(f"{cell.precision} {cell.selector} {cell.tokens}", shard.done, shard.total)
        if cell not in shard.impossible:
            try:
                engine.use_selector(cell.selector, visual_tokens=cell.tokens, **run.options(cell))
            except UserError as error:
                shard.refuse(cell, key, str(error), every_image=True)
                shard.done += len(items)
                continue
            try:
                scene = see(engine, looked)
                # All of the image's questions, also if a killed run left some of the answers:
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
    shard.on_step("", shard.done, shard.total)


def _prompt(item: Item, condition: str, seed: int) -> str:
    question = item.question
    if condition == REPHRASED:
        question = rephrase(question, f"{seed}/{item.id}")
    return question + item.suffix


def _line(cell: Cell, item: Item, answer: Answer, scene: Scene, task: Task) -> dict[str, Any]:
    score, tokens = task.score(item, answer.text), tokens_read(scene, answer)
    scored = Scored(item.image, item.kind, answer.text, round(score, 4), round(tokens, 2))
    return answer_line(cell.key, item.id, scored)
