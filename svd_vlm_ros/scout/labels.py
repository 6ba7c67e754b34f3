# SPDX-License-Identifier: Apache-2.0
"""What each of the 24 x 24 patches of a scene shows: the dense supervision of scout's vision tower.

`patch_labels` reads the renderer's map of objects; `attributes` writes the labels as one row of
numbers a patch, the language in which the two halves of the model are trained before they meet (see
`train`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .render import object_map
from .world import COLORS, GROUNDS, KINDS, SIDES, SIZE, SKIES, WorldScene

PATCH = 14
GRID = SIZE // PATCH
PATCHES = GRID * GRID
COVERED = 0.2  # share of a patch's pixels from which on it belongs to the object

SHOWN = (*KINDS, "sky", "ground", "path")
# Name and number of classes of each label; the last class of all but the first is "does not apply".
GROUPS: tuple[tuple[str, int], ...] = (
    ("shown", len(SHOWN)),
    ("color", len(COLORS) + 1),
    ("side", len(SIDES) + 1),
    ("blocks", 3),
    ("tens", 11),
    ("ones", 11),
    ("ground", len(GROUNDS) + 1),
    ("sky", len(SKIES) + 1),
    ("anchor", 2),
)
# Where the object's middle and foot are, the patch's own place (all 0 to 1), and the logarithm of
# the object's patches.
MEASURES = ("x", "base", "column", "row", "size")
FREQUENCIES = (1.0, 2.0, 4.0)
CLASSES = sum(count for _, count in GROUPS)
MEASURED = len(MEASURES) * (1 + 2 * len(FREQUENCIES))
ATTRIBUTES = CLASSES + MEASURED


@dataclass(frozen=True)
class PatchLabels:
    """`classes`: int64 [576, 9], one column a group. `measures`: float32 [576, 5]. Both in raster
    order.
    """

    classes: np.ndarray
    measures: np.ndarray


def patch_labels(scene: WorldScene) -> PatchLabels:
    """What each patch shows: the object that covers most of it, if that is a fifth or more."""
    owner, centers = _owners(scene)
    classes = np.empty((PATCHES, len(GROUPS)), np.int64)
    classes[:] = [0, *(count - 1 for _, count in GROUPS[1:-1]), 0]
    row, column = np.divmod(np.arange(PATCHES), GRID)
    x, y = (column + 0.5) * PATCH, (row + 0.5) * PATCH
    measures = np.stack((x, y, x, y, np.zeros(PATCHES)), axis=1) / SIZE
    _label_background(scene, classes, x, y)
    for index, thing in enumerate(scene.objects):
        mine = owner == index
        count = int(mine.sum())
        if not count:
            continue
        number = divmod(thing.number, 10) if thing.number is not None else (10, 10)
        classes[mine, :6] = (
            KINDS.index(thing.kind),
            COLORS.index(thing.color),
            SIDES.index(thing.side),
            int(scene.blocks(thing)),
            *number,
        )
        classes[mine, 6:8] = len(GROUNDS), len(SKIES)
        classes[centers[index], 8] = 1
        measures[mine, 0] = thing.x / SIZE
        measures[mine, 1] = thing.base / SIZE
        measures[mine, 4] = np.log(count) / np.log(PATCHES)
    return PatchLabels(classes, measures.astype(np.float32))


def _owners(scene: WorldScene) -> tuple[np.ndarray, dict[int, int]]:
    """The object of each patch (int [576], -1 for none) and each visible object's own most central
    patch.
    """
    tiles = object_map(scene).reshape(GRID, PATCH, GRID, PATCH).transpose(0, 2, 1, 3)
    pixels = tiles.reshape(PATCHES, PATCH * PATCH)
    count = np.stack(
        [(pixels == i).sum(1) for i in range(len(scene.objects))] or [np.zeros(PATCHES)]
    )
    owner = np.where(count.max(0) >= COVERED * PATCH * PATCH, count.argmax(0), -1)
    centers = {}
    for index in range(len(scene.objects)):
        mine = np.flatnonzero(owner == index)
        if len(mine):
            place = np.stack(np.divmod(mine, GRID), axis=1)
            centers[index] = int(mine[np.square(place - place.mean(0)).sum(1).argmin()])
    return owner, centers


def _label_background(scene: WorldScene, classes: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    edges = [scene.path.at(float(v), scene.horizon) for v in y]
    on_path = np.array([left < u < right for u, (left, right) in zip(x, edges, strict=True)])
    sky = y < scene.horizon
    classes[:, 0] = np.where(sky, len(KINDS), np.where(on_path, len(KINDS) + 2, len(KINDS) + 1))
    classes[:, 6] = np.where(sky, len(GROUNDS), GROUNDS.index(scene.ground))
    classes[:, 7] = np.where(sky, SKIES.index(scene.sky), len(SKIES))


def attributes(labels: PatchLabels) -> np.ndarray:
    """Labels as one row a patch: one-hot classes, then each measure with its sines and cosines.
    float32 [576, ATTRIBUTES].
    """
    columns = [
        np.eye(count, dtype=np.float32)[labels.classes[:, i]] for i, (_, count) in enumerate(GROUPS)
    ]
    return np.concatenate([*columns, waves(labels.measures)], axis=1)


def waves(measures: np.ndarray) -> np.ndarray:
    """Each measure m with sin and cos of pi f m: float32 [n, 5] to [n, MEASURED]."""
    angle = measures[..., None] * (np.pi * np.array(FREQUENCIES, np.float32))
    rows = np.concatenate((measures[..., None], np.sin(angle), np.cos(angle)), axis=-1)
    return rows.reshape(*measures.shape[:-1], MEASURED).astype(np.float32)
