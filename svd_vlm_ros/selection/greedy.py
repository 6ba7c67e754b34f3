# SPDX-License-Identifier: Apache-2.0
"""Two greedy rules that several methods share: best coverage, and largest volume.

Both take what the next one adds to the set, one by one, and both are exact: faster than the plain
loop by what they do not compute, never by what they leave to chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svd_vlm_ros.selection.sets import TIE, first_of_highest

# Candidates whose gain is brought up to date at a time: at first, when each choice moves most of
# them, and after so many choices.
EARLY_BATCH, BATCH, EARLY = 64, 16, 16


def greedy_coverage(
    coverage: np.ndarray, count: int, weights: np.ndarray | None = None
) -> tuple[list[int], np.ndarray]:
    """Choose candidates that cover the targets best.

    The next candidate is the one with the largest gain w_j sum_i max(0, C_ji - c_i), where c_i is
    how well target i is covered already: at first 0, then the largest C_ji of those chosen. A gain
    never grows while others are chosen, so only those candidates are computed again whose last
    known gain could still be the largest.

    Args:
        coverage: float64 [n, t], C: how well each candidate covers each target.
        count: how many to choose, at most n.
        weights: float64 [n], w, not negative; None: all 1.

    Returns:
        The chosen, in their order, and float64 [n]: the gain of each when it was chosen; of the
        others what they would still add, or a bound of it.
    """
    weights = np.ones(len(coverage)) if weights is None else weights
    covered = np.zeros(coverage.shape[1])
    bounds = np.maximum(coverage, 0.0).sum(axis=1) * weights
    scale = float(bounds.max())
    gains = bounds.copy()
    open_ = np.ones(len(coverage), dtype=bool)
    chosen: list[int] = []
    for _ in range(count):
        stale = open_.copy()
        best = -np.inf
        size = min(EARLY_BATCH if len(chosen) < EARLY else BATCH, len(bounds))
        while True:
            worth = np.where(stale, bounds, -np.inf)
            batch = np.argpartition(-worth, size - 1)[:size]
            batch = batch[worth[batch] >= max(best - TIE * scale, 0.0)]
            if not len(batch):
                break
            more = coverage[batch] - covered
            bounds[batch] = np.maximum(more, 0.0, out=more).sum(axis=1) * weights[batch]
            stale[batch] = False
            best = max(best, float(bounds[batch].max()))
        fresh = np.where(open_ & ~stale, bounds, -np.inf)
        pick = int(first_of_highest(fresh, scale))
        chosen.append(pick)
        gains[pick] = bounds[pick]
        open_[pick] = False
        np.maximum(covered, coverage[pick], out=covered)
    gains[open_] = bounds[open_]
    return chosen, gains


def greedy_volume(
    gram: np.ndarray, count: int, first: Sequence[int] = ()
) -> tuple[list[int], np.ndarray]:
    """Choose rows that span the largest volume: pivoted Cholesky of a Gram matrix.

    The next row is the one that stands out the most from the span of the chosen: the largest
    squared distance d_j. That is QR with pivoting on the rows themselves, and the greedy search
    for the most likely set of a determinantal point process with this kernel.

    Args:
        gram: float64 [n, n], symmetric, not negative definite.
        count: how many to choose, at most n.
        first: rows that are chosen beforehand, in this order.

    Returns:
        The chosen, in their order: fewer than `count` where the rest lies in their span (within
        rounding: n * 1e-15 of the largest row). And float64 [n]: the d of each chosen when it was
        chosen, of the others what is left of them.
    """
    left = gram.diagonal().copy()
    scale = float(left.max())
    nothing = len(gram) * 1e-15 * scale
    basis = np.empty((count, len(gram)))  # row s: the part of each row along the s-th direction
    gains = np.zeros(len(gram))
    open_ = np.ones(len(gram), dtype=bool)
    chosen: list[int] = []
    rank = 0
    while len(chosen) < count:
        if len(chosen) < len(first):
            pick = first[len(chosen)]
        else:
            pick = int(first_of_highest(np.where(open_, left, -np.inf), scale))
            if left[pick] <= nothing:
                break
        chosen.append(pick)
        open_[pick] = False
        gains[pick] = left[pick]
        if left[pick] > nothing:
            row = gram[pick] - basis[:rank, pick] @ basis[:rank]
            row /= np.sqrt(left[pick])
            basis[rank] = row
            rank += 1
            left = np.maximum(left - row * row, 0.0)
    gains[open_] = left[open_]
    return chosen, gains
