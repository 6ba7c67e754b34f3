# SPDX-License-Identifier: Apache-2.0
"""Greedy rules that several methods share: best coverage, most diversity, and largest volume.

They take what the next one adds to the set, one by one, and are exact: faster than the plain
loop by what they do not compute, never by what they leave to chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svd_vlm_ros.selection.ranking import first_of_highest


def greedy_coverage(
    coverage: np.ndarray, count: int, weights: np.ndarray | None = None
) -> tuple[list[int], np.ndarray]:
    """Choose candidates that cover the targets best.

    The next candidate is the one with the largest gain w_j sum_i max(0, C_ij - c_i), where c_i is
    how well target i is covered already: at first 0, then the largest C_ij of those chosen. A
    choice changes the gains only by way of those targets that it covers better, soon a few in a
    hundred, so that nothing else is computed again.

    Args:
        coverage: float64 [t, n], C: how well each target is covered by each candidate.
        count: how many to choose, at most n.
        weights: float64 [n], w, not negative; None: all 1.

    Returns:
        The chosen, in their order, and float64 [n]: the gain of each when it was chosen; of the
        others what they would still add.
    """
    weights = np.ones(coverage.shape[1]) if weights is None else weights
    covered = np.zeros(len(coverage))
    left = np.maximum(coverage, 0.0).sum(axis=0) * weights  # what each candidate would still add
    scale = float(left.max())
    gains = np.empty(len(left))
    chosen: list[int] = []
    for _ in range(count):
        pick = int(first_of_highest(left, scale))
        chosen.append(pick)
        gains[pick] = left[pick]
        left[pick] = -np.inf
        covers = coverage[:, pick].copy()
        better = np.flatnonzero(covers > covered)
        before, after = covered[better], covers[better]
        covered[better] = after
        # Of what a candidate adds to a target nothing is left but what is above `after`.
        lost = coverage[better]
        np.minimum(lost, after[:, None], out=lost)
        np.maximum(lost, before[:, None], out=lost)
        left -= (lost.sum(axis=0) - before.sum()) * weights
    gains = np.where(np.isneginf(left), gains, left)
    return chosen, np.maximum(gains, 0.0)  # rounding may leave less than nothing


def greedy_diversity(distances: np.ndarray, count: int) -> tuple[list[int], np.ndarray]:
    """Choose candidates of which no two are close: the max-min diversity problem.

    The first is the one whose nearest neighbour is farthest away, each next one the one that is
    farthest from the nearest of those chosen.

    Args:
        distances: float64 [n, n], symmetric.
        count: how many to choose, less than n.

    Returns:
        The chosen, in their order, and float64 [n]: the distance at which each was chosen, of the
        others what separates them from the nearest chosen one.
    """
    apart = distances + np.diag(np.full(len(distances), np.inf))
    apart = apart.min(axis=1)  # of each from its nearest neighbour
    pick = int(first_of_highest(apart))
    worth = np.zeros(len(distances))
    open_ = np.ones(len(distances), dtype=bool)
    nearest = np.full(len(distances), np.inf)
    chosen: list[int] = []
    while True:
        chosen.append(pick)
        worth[pick] = max(apart[pick] if len(chosen) == 1 else nearest[pick], 0.0)
        open_[pick] = False
        np.minimum(nearest, distances[pick], out=nearest)
        if len(chosen) == count:
            break
        pick = int(first_of_highest(np.where(open_, nearest, -np.inf)))
    worth[open_] = np.maximum(nearest[open_], 0.0)
    return chosen, worth


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
        The chosen, in their order: fewer than `count` if the rest lies in their span (within
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
            # Not `@`: NumPy's BLAS has threads of its own, which `cpu_threads` does not reach.
            row = gram[pick] - np.einsum("s,sn->n", basis[:rank, pick], basis[:rank])
            row /= np.sqrt(left[pick])
            basis[rank] = row
            rank += 1
            left = np.maximum(left - row * row, 0.0)
    gains[open_] = left[open_]
    return chosen, gains
