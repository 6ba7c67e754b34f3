# SPDX-License-Identifier: Apache-2.0
"""What the methods share that choose a set as a whole: their inputs, similarities and results.

Features stay on their device; what is small (n x n) comes to the CPU in float64, where a greedy
loop of some hundred short steps is faster than on a GPU and the same everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.ranking import needed
from svd_vlm_ros.selection.values import Selection

STRIPE = 96  # rows of a Gram matrix at a time: fewer leave out more, but a product gets slower


def keep_set(
    features: VisualFeatures,
    kept: np.ndarray | Tensor,
    worth: np.ndarray | Tensor,
    merge: Tensor | None = None,
) -> Selection:
    """A selection from places among the *valid* patches.

    Args:
        features: the image.
        kept: int [k], places among the valid patches, in any order.
        worth: float [n], one for each valid patch, not negative; for display.
        merge: see `Selection`; its rows are in ascending order of the kept patches.
    """
    valid = features.valid_indices()
    kept = torch.as_tensor(kept, dtype=torch.int64).sort().values
    worth = torch.as_tensor(worth, dtype=torch.float64)
    total = float(worth.sum())
    worth = worth / total if total > 0.0 else torch.full_like(worth, 1.0 / len(worth))
    scores = torch.zeros(len(features), dtype=torch.float32, device=valid.device)
    scores[valid] = worth.to(valid.device, torch.float32)
    return Selection(valid[kept.to(valid.device)], scores, merge)


def keep_all(features: VisualFeatures, worth: np.ndarray | Tensor | None = None) -> Selection:
    """Every valid patch as it is: what all methods do if the budget reaches that far."""
    count = len(features.valid_indices())
    return keep_set(features, np.arange(count), np.ones(count) if worth is None else worth)


def rows_of(matrix: Tensor, features: VisualFeatures) -> Tensor:
    """Of a matrix with a row for each patch the valid rows: float64 [n, d], on its device. It may
    be the matrix itself: do not write to it.
    """
    if features.valid is not None:
        matrix = matrix[features.valid_indices().to(matrix.device)]
    return matrix.to(torch.float64)


def cosines(rows: Tensor, others: Tensor | None = None) -> np.ndarray:
    """The cosine of each row with each other row: float64 [n, m]. A row of zeros is like nothing.

    Args:
        rows: float64 [n, d].
        others: float64 [m, d]; None: `rows` themselves.
    """
    if others is None:
        return to_cosines(gram(rows).cpu())
    like = rows @ others.T
    return like.div_(_lengths(rows)[:, None]).div_(_lengths(others)).cpu().numpy()


def to_cosines(products: Tensor) -> np.ndarray:
    """The cosines of rows from their Gram matrix, float64 [n, n] on the CPU, in its own memory."""
    lengths = products.diagonal().sqrt().clamp(min=1e-300)
    return products.div_(lengths[:, None]).div_(lengths).numpy()


def gram(rows: Tensor) -> Tensor:
    """The scalar product of each row with each row: [n, n].

    In stripes, which leaves out most of what symmetry gives for nothing: a third of the time for
    576 x 1024 on a CPU.
    """
    count = len(rows)
    products = rows.new_empty(count, count)
    for start in range(0, count, STRIPE):
        end = min(start + STRIPE, count)
        torch.mm(rows[start:end], rows[:end].T, out=products[start:end, :end])
        products[:start, start:end] = products[start:end, :start].T
    return products


def class_token_attention(features: VisualFeatures, selector: str) -> np.ndarray:
    """How much the class token, or the mean patch if there is none, looks at each valid patch:
    float64 [n], over all heads, sum 1.
    """
    attention = needed(features.class_attention, "class_attention", selector)
    looks = rows_of(attention.T, features).sum(dim=1).cpu().numpy()
    total = looks.sum()
    return looks / total if total > 0.0 else np.full(len(looks), 1.0 / len(looks))


def merge_matrix(
    features: VisualFeatures, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, count: int
) -> Tensor:
    """A `Selection.merge` from its entries.

    Args:
        features: the image.
        rows: int [e], the token of each entry.
        columns: int [e], 0 for the class token, 1 + place among the *valid* patches.
        weights: float [e].
        count: of tokens.
    """
    valid = features.valid_indices()
    places = torch.cat([valid.new_zeros(1), 1 + valid])
    at = torch.stack(
        [
            torch.as_tensor(rows, dtype=torch.int64, device=valid.device),
            places[torch.as_tensor(columns, dtype=torch.int64, device=valid.device)],
        ]
    )
    values = torch.as_tensor(weights, dtype=torch.float32, device=valid.device)
    shape = (count, 1 + len(features))
    return torch.sparse_coo_tensor(at, values, shape, check_invariants=True).coalesce()


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = rows.norm(dim=1).clamp(min=1e-300)
    return lengths
