# SPDX-License-Identifier: Apache-2.0
"""How long an answer takes in each cell, as a user waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.cells import Cell
from svd_vlm_ros.evaluation.runs import Shard
from svd_vlm_ros.evaluation.tasks import Item


def time_cells(
    shard: Shard, engine: SceneEngine, cells: list[Cell], share: list[tuple[str, list[Item]]]
) -> None:
    """Time what a user waits for: one new image and one question, nothing shared."""
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
            shard.on_step(f"timing {cell.selector} {cell.tokens}", shard.done, shard.total)
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
