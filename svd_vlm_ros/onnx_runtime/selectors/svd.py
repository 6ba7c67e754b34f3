# SPDX-License-Identifier: Apache-2.0
"""SVD-Prune and leverage-weighted coverage in NumPy, in float64.

`selection/svd.py` and `selection/svd_cover.py` have the formulas, the papers and the readings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.onnx_runtime.selectors.features import Selection, VisualFeatures
from svd_vlm_ros.onnx_runtime.selectors.rules import (
    gram,
    keep_all,
    keep_highest,
    keep_set,
    rows_of,
    to_cosines,
)
from svd_vlm_ros.selection.greedy import greedy_coverage
from svd_vlm_ros.selection.leverage import (
    CONTRAST_RESOLUTION,
    ENERGY_RESOLUTION,
    Rank,
    check_cover,
    check_svd,
    count_to_cover,
)
from svd_vlm_ros.selection.values import Budget, Need

BLOCK = 96  # rows that are factored at once


@dataclass(frozen=True)
class SvdPrune:
    """SVD-Prune (arXiv 2604.11530), exact, by the smaller Gram matrix.

    Attributes:
        rank, rank_energy, centre: as in `selection.svd.SvdPrune`. It has no `warm_start` here.
    """

    name: ClassVar[str] = "svd"
    needs: ClassVar[frozenset[Need]] = frozenset()
    rank: Rank = "energy"
    rank_energy: float = 0.9
    centre: bool = False

    def __post_init__(self) -> None:
        check_svd(self.rank, self.rank_energy)

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep the patches of highest leverage."""
        patches = rows_of(features.patches, features)
        if self.centre:
            patches = patches - patches.mean(axis=0)
        largest_rank = budget.tokens if self.rank == "budget" else None
        return keep_highest(leverage(patches, self.rank_energy, largest_rank), features, budget)


def leverage(
    patches: np.ndarray, rank_energy: float = 0.9, largest_rank: int | None = None
) -> np.ndarray:
    """Leverage scores l_i = |U_k[i]|^2 / k of the rows of a matrix.

    Args:
        patches: float64 [n, D], finite.
        rank_energy: k is the smallest rank with this share of the squared singular values.
        largest_rank: k is at most this; None: no limit.

    Returns:
        float64 [n], summing to 1.
    """
    rows, columns = patches.shape
    wide = rows <= columns
    energies, vectors = np.linalg.eigh(gram(patches if wide else patches.T))
    energies = np.maximum(energies[::-1], 0.0)  # ascending before: S^2 from the other end
    if not energies[0] > 0.0:
        return np.full(rows, 1.0 / rows)
    reached = np.cumsum(energies) >= (rank_energy - ENERGY_RESOLUTION) * energies.sum()
    k = int(reached.argmax()) + 1
    if largest_rank is not None:
        k = min(k, largest_rank)
    top = vectors[:, ::-1][:, :k]
    if not wide:
        top = patches @ (top / np.sqrt(energies[:k]))
    lengths = np.square(top).sum(axis=1)
    scores: np.ndarray = lengths / lengths.sum()
    return scores


@dataclass(frozen=True)
class SvdCover:
    """Keep the patches that together cover the image, what is rare in it counting more.

    Attributes:
        beta, ridge: as in `selection.svd_cover.SvdCover`.
    """

    name: ClassVar[str] = "svd-cover"
    needs: ClassVar[frozenset[Need]] = frozenset()
    beta: float = 0.3
    ridge: float = 1.0

    def __post_init__(self) -> None:
        check_cover(self.beta, self.ridge)

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what covers."""
        valid = len(features.valid_indices())
        count = min(budget.tokens, valid)
        if budget.energy is None and count == valid:
            return keep_all(features)
        products = gram(rows_of(features.patches, features))
        weights = np.full(valid, (1.0 - self.beta) / valid)
        if self.beta:
            shares = ridge_leverage(products, self.ridge)
            weights += self.beta * (shares / shares.sum())
        kept, gains = greedy_coverage(to_cosines(products) * weights[:, None], count)
        kept = kept[: count_to_cover(gains[kept], budget)]
        return keep_set(features, np.array(kept), gains)


def ridge_leverage(products: np.ndarray, ridge: float) -> np.ndarray:
    """The ridge leverage of the rows of a matrix less their mean.

    Args:
        products: float64 [n, n], the Gram matrix of the rows as they are.
        ridge: lambda in mean squared lengths of the rows less their mean.

    Returns:
        float64 [n], each from 0 to 1; all 1 if the rows do not differ.
    """
    mean = products.mean(axis=0)
    centred = (products - mean) - (mean - mean.mean())[:, None]
    energy = float(centred.trace())
    if energy <= CONTRAST_RESOLUTION * float(products.trace()):
        return np.ones(len(products))
    soft = ridge * energy / len(products)
    centred[np.diag_indices_from(centred)] += soft
    # (L L^T)^-1 has the squared lengths of the columns of L^-1 on its diagonal.
    shares: np.ndarray = 1.0 - soft * np.square(to_inverse_factor(centred)).sum(axis=0)
    return shares


def to_inverse_factor(matrix: np.ndarray) -> np.ndarray:
    """Turn a matrix into the inverse of its Cholesky factor, in place, by blocks of rows.

    NumPy has no triangular solver; `selection.svd_cover.to_inverse_factor` says how this one goes.

    Args:
        matrix: float64 [n, n], positive definite; only its lower triangle is read.
    """
    for start in range(0, len(matrix), BLOCK):
        end = min(start + BLOCK, len(matrix))
        rows, below = matrix[start:end], matrix[end:]
        inverse = np.linalg.inv(np.linalg.cholesky(rows[:, start:end]))
        rows[:, start:end] = np.tril(inverse)
        rows[:, :start] = inverse @ rows[:, :start]
        factor = below[:, start:end] @ inverse.T
        below[:, start:end] = 0.0
        below[:, :end] -= factor @ rows[:, :end]
        below[:, end:] -= factor @ factor.T
        rows[:, end:] = 0.0
    return matrix
