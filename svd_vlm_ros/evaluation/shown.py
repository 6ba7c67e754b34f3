# SPDX-License-Identifier: Apache-2.0
"""What a run keeps for the report: a few images, what was asked about them, what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from svd_vlm_ros.engine import Answer, Scene
from svd_vlm_ros.evaluation.cells import Cell
from svd_vlm_ros.evaluation.tasks import Item
from svd_vlm_ros.models.images import Framing

LOOKS = 12  # images that the report shows
IMAGES = "pictures"  # folder of those images, beside the answers


def asked_line(key: str, items: Sequence[Item]) -> dict[str, Any]:
    """What was asked about an image, with the true answers (of several the most frequent one)."""
    asked = [(item.id, item.question, max(item.truth, key=item.truth.count)) for item in items]
    return {"record": "asked", "picture": key, "questions": asked}


def shown_lines(
    out: Path, cell: Cell, key: str, image: np.ndarray, scene: Scene, answer: Answer
) -> list[dict[str, Any]]:
    """What the report draws of an image in a cell: the patches of the kept tokens."""
    path = image_path(out, key)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    selection = answer.selection if answer.selection is not None else scene.selection
    framing = scene.framing
    if selection is None or not isinstance(framing, Framing):  # the report draws one grid
        return []
    merged: dict[int, list[int]] = {}
    if selection.merge is not None:
        rows, columns = selection.merge.coalesce().indices().tolist()
        for row, column in zip(rows, columns, strict=True):
            merged.setdefault(row, []).append(column - 1)  # -1: the class token
    indices = selection.indices.tolist()
    return [
        {
            "record": "look",
            "cell": cell.key,
            "picture": key,
            "kept": indices,
            "merged": {
                str(indices[row]): made for row, made in merged.items() if made != [indices[row]]
            },
            "grid": list(framing.grid),
            "size": [framing.height, framing.width],
            "patch": [framing.x0, framing.y0, framing.patch_width, framing.patch_height],
        }
    ]


def image_path(out: Path, key: str) -> Path:
    """The file of an image of the report."""
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in key)
    return out / IMAGES / f"{name}.jpg"
