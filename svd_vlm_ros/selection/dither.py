# SPDX-License-Identifier: Apache-2.0
"""How patches are ranked so that every prefix covers the image evenly. NumPy alone, no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def even_scores(grids: Sequence[tuple[int, int]], valid: np.ndarray) -> np.ndarray:
    """Scores that fall linearly along the ranking of a Bayer matrix (ordered dithering).

    Args:
        grids: rows and columns of each tile; each has a matrix of its own.
        valid: int64 [n], the patches that may be kept.

    Returns:
        float64 [n], summing to 1.
    """
    thresholds = np.concatenate([_thresholds(*grid) for grid in grids])[valid]
    scores = np.empty(len(valid))
    scores[thresholds.argsort(kind="stable")] = np.arange(len(valid), 0, -1)
    even: np.ndarray = scores / scores.sum()
    return even


def bayer(size: int) -> np.ndarray:
    """The Bayer matrix of the next power of two: int64 [s, s], every number below s * s once."""
    matrix = np.zeros((1, 1), dtype=np.int64)
    while len(matrix) < size:
        four = 4 * matrix
        matrix = np.block([[four, four + 2], [four + 3, four + 1]])
    return matrix


def _thresholds(rows: int, columns: int) -> np.ndarray:
    """The ranks of a grid's patches, from 0 to 1: float64 [rows * columns]."""
    matrix = bayer(max(rows, columns))
    ranks: np.ndarray = matrix[:rows, :columns].reshape(-1) / matrix.size
    return ranks
