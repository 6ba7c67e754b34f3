# SPDX-License-Identifier: Apache-2.0
"""Whether an image shows anything new: small copies of images, compared tile by tile.

A millisecond's work on the CPU in place of the model's. Averaging over an area takes away the
sensor's noise and JPEG's; taking the tile that differs most, and not the mean over the image,
leaves a small thing that has appeared in one corner its weight.
"""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 64  # pixels of the small copy, both ways
TILE = 8  # pixels of a tile, both ways


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A small copy of an image: uint8 [H, W, 3] of any size becomes uint8 [SIDE, SIDE, 3]."""
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """How much two thumbnails differ, from 0 to 1: the mean over the tile that differs most."""
    apart = cv2.absdiff(one, other).reshape(SIDE // TILE, TILE, SIDE // TILE, TILE, 3)
    return float(apart.mean(axis=(1, 3, 4)).max()) / 255.0
