# SPDX-License-Identifier: Apache-2.0
"""What the methods share, in NumPy: from scores or a set to a selection, similarities, attention.

The same rules as `selection.interface` and `selection.sets`, whose docstrings say why; tests hold
their results to each other, index by index.
"""

from __future__ import annotations

import numpy as np

from svd_vlm_ros.onnx_runtime.selectors.features import Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import SCORE_RESOLUTION, needed
from svd_vlm_ros.selection.values import Budget


def keep_highest(scores: np.ndarray, features: VisualFeatures, budget: Budget) -> Selection:
    """Keep the patches with the highest scores, as many as the budget asks for.

    Args:
        scores: float64 [n], one for each *valid* patch in raster order, none negative, summing
            to 1. Of scores that are equal within `SCORE_RESOLUTION` the lower index comes first.
        features: the image, for its valid patches.
        budget: fixed or adaptive.
    """
    valid = features.valid_indices()
    order = np.argsort(-np.round(scores / SCORE_RESOLUTION), kind="stable")
    kept = np.sort(valid[order[: count_to_keep(scores[order], budget)]])
    return Selection(kept, _shown(features, scores))


def count_to_keep(ranked: np.ndarray, budget: Budget) -> int:
    """How many of n ranked scores to keep; see `selection.interface.count_to_keep`."""
    count = min(budget.tokens, len(ranked))
    if budget.energy is None:
        return count
    reached = np.cumsum(ranked) >= budget.energy - len(ranked) * SCORE_RESOLUTION
    fewest = int(reached.argmax()) + 1 if bool(reached.any()) else len(ranked)
    return min(count, fewest)


def keep_set(features: VisualFeatures, kept: np.ndarray, worth: np.ndarray) -> Selection:
    """A selection from places among the *valid* patches.

    Args:
        features: the image.
        kept: int [k], places among the valid patches, in any order.
        worth: float [n], one for each valid patch, not negative; for display.
    """
    total = worth.sum()
    worth = worth / total if total > 0.0 else np.full(len(worth), 1.0 / len(worth))
    return Selection(features.valid_indices()[np.sort(kept)], _shown(features, worth))


def keep_all(features: VisualFeatures, worth: np.ndarray | None = None) -> Selection:
    """Every valid patch as it is: what all methods do if the budget reaches that far."""
    count = len(features.valid_indices())
    return keep_set(features, np.arange(count), np.ones(count) if worth is None else worth)


def rows_of(matrix: np.ndarray, features: VisualFeatures) -> np.ndarray:
    """Of a matrix with a row for each patch the valid rows: float64 [n, d]."""
    if features.valid is not None:
        matrix = matrix[features.valid]
    return matrix.astype(np.float64)


def gram(rows: np.ndarray) -> np.ndarray:
    """The scalar product of each row with each row: [n, n]. NumPy computes half of it (SYRK)."""
    products: np.ndarray = rows @ rows.T
    return products


def to_cosines(products: np.ndarray) -> np.ndarray:
    """The cosines of rows from their Gram matrix [n, n]. A row of zeros is like nothing."""
    lengths = np.maximum(np.sqrt(products.diagonal()), 1e-300)
    cosines: np.ndarray = products / lengths[:, None] / lengths
    return cosines


def class_token_attention(features: VisualFeatures, selector: str) -> np.ndarray:
    """How much the class token looks at each valid patch: float64 [n], over all heads, sum 1."""
    attention = needed(features.class_attention, "class_attention", selector)
    looks: np.ndarray = rows_of(attention.T, features).sum(axis=1)
    total = looks.sum()
    return looks / total if total > 0.0 else np.full(len(looks), 1.0 / len(looks))


def _shown(features: VisualFeatures, scores: np.ndarray) -> np.ndarray:
    shown = np.zeros(len(features), dtype=np.float32)
    shown[features.valid_indices()] = scores
    return shown
