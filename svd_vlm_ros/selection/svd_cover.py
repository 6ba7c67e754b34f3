# SPDX-License-Identifier: Apache-2.0
"""Leverage-weighted coverage: this project's own rule, leverage for what is rare and coverage of
the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from svd_vlm_ros.selection.greedy import greedy_coverage
from svd_vlm_ros.selection.interface import Budget, Need, Selection, VisualFeatures
from svd_vlm_ros.selection.leverage import CONTRAST_RESOLUTION, check_cover, count_to_cover
from svd_vlm_ros.selection.sets import gram, keep_all, keep_set, rows_of, to_cosines

BLOCK = 96  # rows that are factored at once: with fewer the products get slower, with more LAPACK


@dataclass(frozen=True)
class SvdCover:
    """Keep the patches that together cover the image, what is rare in it counting more.

    With S_ij = max(0, cos(f_i, f_j)) the similarity of the patches [n, D], l_i the ridge leverage
    of patch i (below) and beta from 0 to 1, patch i has the weight

        w_i = (1 - beta) / n + beta l_i / sum l

    and a set K covers the share C(K) = sum_i w_i max_{j in K} S_ij of the image: 1 where every
    patch is kept. Patches are taken one by one, each time the one that adds most to C: the greedy
    rule for facility location. C is submodular, so that it reaches 1 - 1/e of the best set or
    more.

    With U S V^T the singular value decomposition of the patches less their mean, and lambda =
    ridge * (mean squared length of its rows), the ridge leverage (Alaoui and Mahoney, 2015) is
    l_i = sum_j U_ij^2 S_j^2 / (S_j^2 + lambda): SVD-Prune's leverage (arXiv 2604.11530) with a
    soft end of the subspace in place of a rank. A direction counts half where just as much energy
    lies in it as one average patch has. It needs no decomposition: l_i is the diagonal of
    1 - lambda (G + lambda)^-1, G the Gram matrix, by Cholesky.

    Why. Leverage scores patches one by one: all patches of a rare object score high, and a small
    budget goes into one of them, while ground and sky, of which there is much, are not seen at
    all. Coverage without weights sees what is large first. The weights let one patch of a small
    sign outweigh the tenth patch of grass, and coverage sees to it that one is enough.
    `docs/selectors.md` has what was tried and what each part is worth.

    The rule looks at the image alone, so that a Scene can be asked many questions, and it needs
    no attention weights. A fixed budget keeps its number of tokens; an adaptive one keeps the
    fewest whose C reaches its energy, and at most its number. The scores for display are what
    each patch added to C, of the others what it would still add. Ties: the lower index.

    Attributes:
        beta: how much leverage counts, 0 (coverage alone) to 1.
        ridge: above 0; the larger, the fewer directions count.
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
        products = gram(rows_of(features.patches, features)).cpu()
        weights = np.full(valid, (1.0 - self.beta) / valid)
        if self.beta:
            shares = ridge_leverage(products, self.ridge)
            weights += self.beta * (shares / shares.sum()).numpy()
        coverage = to_cosines(products)  # below 0 it covers nothing: the greedy rule knows that
        coverage *= weights[:, None]
        kept, gains = greedy_coverage(coverage, count)
        kept = kept[: count_to_cover(gains[kept], budget)]
        return keep_set(features, np.array(kept), gains)


def ridge_leverage(products: Tensor, ridge: float) -> Tensor:
    """The ridge leverage of the rows of a matrix less their mean; see `SvdCover`.

    Args:
        products: float64 [n, n], the Gram matrix of the rows as they are.
        ridge: lambda in mean squared lengths of the rows less their mean.

    Returns:
        float64 [n], each from 0 to 1; all 1 if the rows do not differ.
    """
    mean = products.mean(dim=0)
    centred = (products - mean).sub_((mean - mean.mean())[:, None])
    energy = float(centred.trace())
    if energy <= CONTRAST_RESOLUTION * float(products.trace()):
        return torch.ones(len(products), dtype=products.dtype)
    soft = ridge * energy / len(products)
    centred.diagonal().add_(soft)
    # (L L^T)^-1 has the squared lengths of the columns of L^-1 on its diagonal.
    return 1.0 - soft * to_inverse_factor(centred).square_().sum(dim=0)


def to_inverse_factor(matrix: Tensor) -> Tensor:
    """Turn a matrix into the inverse of its Cholesky factor, L^-1 with matrix = L L^T, in place.

    By blocks of rows, as Gauss and Jordan invert: once a block is factored, one product subtracts
    its part both from what is still to be factored below it and from the inverse that is made to
    its left. Nearly all of the work is in that product, and it takes two thirds of the time that
    LAPACK's factor and an inverse of that take.

    Args:
        matrix: float64 [n, n], positive definite; only its lower triangle is read.
    """
    for start in range(0, len(matrix), BLOCK):
        end = min(start + BLOCK, len(matrix))
        rows, below = matrix[start:end], matrix[end:]
        corner = rows[:, start:end]
        one = torch.eye(end - start, dtype=matrix.dtype)
        factor = torch.linalg.cholesky(corner)
        corner.copy_(torch.linalg.solve_triangular(factor, one, upper=False))
        rows[:, :start] = corner @ rows[:, :start]
        factor = below[:, start:end] @ corner.T
        rows[:, end:] = factor.T
        below[:, start:end] = 0.0
        below.addmm_(factor, rows, alpha=-1.0)
        rows[:, end:] = 0.0
    return matrix
