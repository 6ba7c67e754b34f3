# SPDX-License-Identifier: Apache-2.0
"""SVD-Prune on a stream of images: start from the last image's subspace, and prove the result.

`SvdPrune(warm_start=True)` asks here first. A few steps of filtered subspace iteration lead from
the last image's subspace to this one's, without a decomposition of the whole Gram matrix G. What
comes out is only taken if a bound on its error proves that the exact one keeps the same patches:

* Q [m, k] are the Ritz vectors, r_j = |G q_j - theta_j q_j|. No eigenvalue of G on the complement
  of Q is above s: proven by a Cholesky factor of s - (1 - QQ^T) G (1 - QQ^T), so that no direction
  was missed. Then the sine of the largest angle between Q and the exact subspace is at most
  a = sqrt(sum_j (r_j / (theta_j - s))^2) (Davis and Kahan, column by column).
* A patch whose row of Q has the squared length l is off by at most a (2 sqrt(l (1 - l)) + a).
* The rank k: the k first eigenvalues sum to no less than their Ritz values (Ky Fan), and each is at
  most |R| above its own (Weyl).

These hold in exact arithmetic. For rounding, the exact way's too, `ROUNDING` of G's trace is added
wherever something is compared: far above what float64 leaves behind, but that is experience, not
proof.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svd_vlm_ros.selection.interface import Budget, count_to_keep
from svd_vlm_ros.selection.ranking import SCORE_RESOLUTION

ROUNDING = 1e-13  # of the trace
TOLERANCE = 1e-6  # how far a score may be off, for display: the mean one is 1 / 576
LARGEST_ANGLE = 1e-3  # its square is nothing beside it
LARGEST_SHARE = 0.25  # of all directions: with more of them nothing is won
LEAST_GUARD = 12  # directions beside the k: half of k, and no fewer than this
PRODUCTS = 12  # of G and a basis: more would cost what the exact way costs
SPREAD = 1e12  # how far a filter may lift the first direction: more, and it covers the others
AIM = 0.2  # of the angle that would do: what a filter aims at


class WarmStart:
    """What is remembered of the last image. It changes how long a selection takes, and nothing
    else.

    Attributes:
        accepted: images whose selection was proven from the last one's subspace.
        fallen_back: images for which that was tried, and then the exact way was taken.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.fallen_back = 0
        self._basis: Tensor | None = None  # float64 [m, k + guard], orthonormal, on the CPU
        self._of: tuple[int, ...] = ()  # the shape of the matrix it belongs to

    def clear(self) -> None:
        """Forget the last image; the counts stay."""
        self._basis = None

    def remember(self, vectors: Tensor, rank: int, shape: tuple[int, ...]) -> None:
        """Take the exact eigenvectors, float64 [m, m] in descending order, for the next image."""
        size = rank + max(LEAST_GUARD, rank // 2)
        fits = size <= LARGEST_SHARE * len(vectors)
        self._basis = vectors[:, :size].clone() if fits else None
        self._of = shape

    def scores(
        self, matrix: Tensor, products: Tensor, target: float, largest_rank: int, budget: Budget
    ) -> Tensor | None:
        """The leverage of the rows of a matrix if it proves the exact selection, else None.

        Args:
            matrix: float64 [n, D]: the valid patches.
            products: float64 [m, m], m = min(n, D), on the CPU: the smaller Gram matrix.
            target: what the k first eigenvalues have to sum to.
            largest_rank: k is at most this.
            budget: what will be kept by these scores.

        Returns:
            float64 [n], summing to 1, on the CPU.
        """
        if self._basis is None or self._of != tuple(matrix.shape):
            return None
        found = self._search(matrix, products, target, largest_rank, budget)
        if found is None:
            self.fallen_back += 1
        else:
            self.accepted += 1
        return found

    def _search(
        self, matrix: Tensor, products: Tensor, target: float, largest_rank: int, budget: Budget
    ) -> Tensor | None:
        assert self._basis is not None
        basis, left = self._basis, PRODUCTS
        rounding = ROUNDING * float(products.trace())
        while True:
            image = products @ basis
            left -= 1
            values, turn = torch.linalg.eigh(basis.T @ image)
            values, turn = values.flip(0), turn.flip(1)
            basis, image = basis @ turn, image @ turn
            k = min(int((values.cumsum(0) < target).sum()) + 1, largest_rank)
            if k >= len(values):
                return None
            energies, following, least = values[:k], float(values[k]), float(values[-1])
            ceiling = following + 0.25 * (float(energies[-1]) - following)
            gaps = energies - ceiling - rounding
            if not float(gaps[-1]) > 0.0:
                return None

            rows = basis[:, :k]
            rest = image[:, :k] - rows * energies
            moved = float(rest.norm()) + rounding
            if len(matrix) > len(products):  # G = F^T F, and the patches are in U = F V / S
                rows, rest = (
                    (matrix @ (part / energies.sqrt()).to(matrix.device)).cpu()
                    for part in (rows, rest)
                )
            angles = (rest.norm(dim=0) + rounding) / gaps
            lengths = rows.square().sum(dim=1)
            enough = largest_angle(lengths, budget)
            if float(angles.norm()) <= enough:
                below = float(energies[:-1].sum()) + (k - 1) * moved < target - rounding
                reached = k == largest_rank or float(energies.sum()) >= target + rounding
                proven = below and reached
                if proven and nothing_above(
                    ceiling, products, basis[:, :k], image[:, :k], energies
                ):
                    scores: Tensor = lengths / lengths.sum()
                    return scores
                return None

            # What lies below `edge` a filter of degree d leaves as it is, and lifts the j-th
            # direction by about exp(d lifts[j]) / 2.
            edge = max(least, 1e-3 * float(energies[-1]))
            lifts = (2.0 * energies / edge - 1.0).clamp(min=1.0).acosh()
            aim, degree = AIM * enough, 1
            while degree < left and float((2.0 * angles * (-degree * lifts).exp()).norm()) > aim:
                degree += 1
            if degree >= left:
                return None
            degree = max(1, min(degree, int(math.log(SPREAD) / float(lifts[0]))))
            basis = self._basis = filtered(products, basis, image, edge, degree)
            left -= degree - 1


def filtered(products: Tensor, basis: Tensor, image: Tensor, edge: float, degree: int) -> Tensor:
    """A basis of T_d(2 G / edge - 1) Q, T_d the Chebyshev polynomial: small from 0 to the edge.

    Args:
        products: float64 [m, m], G.
        basis: float64 [m, p], Q.
        image: float64 [m, p], G Q.
        edge: above 0.
        degree: d, 1 or more; it takes d - 1 products with G.
    """
    before, now = basis, image * (2.0 / edge) - basis
    for _ in range(degree - 1):
        before, now = now, (products @ now) * (4.0 / edge) - 2.0 * now - before
    rotated: Tensor = torch.linalg.qr(now / now.norm(dim=0).clamp(min=1e-300)).Q
    return rotated


def nothing_above(
    ceiling: float, products: Tensor, top: Tensor, image: Tensor, energies: Tensor
) -> bool:
    """Whether no eigenvalue of G on the complement of orthonormal Ritz vectors Q is above a value.

    Args:
        ceiling: that value.
        products: float64 [m, m], G.
        top: float64 [m, k], Q.
        image: float64 [m, k], G Q.
        energies: float64 [k], the Ritz values.
    """
    half = (image - top * (0.5 * energies)) @ top.T
    rest = half + half.T - products  # - (1 - QQ^T) G (1 - QQ^T)
    rest.diagonal().add_(ceiling)
    return int(torch.linalg.cholesky_ex(rest).info) == 0


def largest_angle(lengths: Tensor, budget: Budget) -> float:
    """How far off a subspace may be, and the same patches are kept for certain.

    Args:
        lengths: float64 [n], the squared lengths of the rows of its orthonormal basis.
        budget: what is kept by them.

    Returns:
        The sine of the angle; 0 if nothing is certain.
    """
    n, total = len(lengths), float(lengths.sum())
    scores, order = (lengths / total).sort(descending=True, stable=True)
    inside = lengths[order].clamp(0.0, 1.0)
    # What a score may be off, for each unit of the angle.
    slopes = (2.0 * (inside * (1.0 - inside)).sqrt() + LARGEST_ANGLE) / total
    limits = [LARGEST_ANGLE, TOLERANCE / float(slopes.max())]
    kept = count_to_keep(scores, budget)
    if kept < n:  # all kept stay above a line between them and the others, and these below
        line = 0.5 * float(scores[kept - 1] + scores[kept])
        limits.append(float((((scores - line).abs() - SCORE_RESOLUTION) / slopes).min()))
    if budget.energy is not None:
        slack = n * SCORE_RESOLUTION  # of `count_to_keep`; once more for rounding and ties
        spare = scores.cumsum(0) - (budget.energy - slack)
        off = slopes.sort(descending=True).values.cumsum(0)
        if kept > 1:
            limits.append(float((-spare[kept - 2] - slack) / off[kept - 2]))
        if kept < min(n, budget.tokens):
            limits.append(float((spare[kept - 1] - slack) / off[kept - 1]))
    return max(0.0, min(limits))
