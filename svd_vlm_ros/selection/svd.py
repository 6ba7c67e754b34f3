# SPDX-License-Identifier: Apache-2.0
"""SVD-Prune: keep the patches with the highest leverage on the image's dominant subspace."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.interface import (
    Budget,
    Need,
    Selection,
    VisualFeatures,
    keep_highest,
)
from svd_vlm_ros.selection.leverage import ENERGY_RESOLUTION, Rank, check_svd
from svd_vlm_ros.selection.sets import gram, rows_of
from svd_vlm_ros.selection.warm import WarmStart


@dataclass(frozen=True)
class SvdPrune:
    """SVD-Prune (arXiv 2604.11530), exact.

    With F = U S V^T the singular value decomposition of the valid patches [n, D] and k the rank
    (below), patch i has the leverage score l_i = |U_k[i]|^2 / k. Leverage is never negative and
    sums to 1. A fixed budget keeps the top M patches, an adaptive one the fewest top patches whose
    leverage sums to its energy. The kept patches stay in raster order.

    The paper leaves some things open; these are our readings, with what can be chosen:

    * F is what the encoder gives, before the connector, **not centred**. `centre=True`
      takes the mean patch away first: U_k then spans what differs between patches, not their mean.
    * The leverage is that of U_k, **not** of U_k S_k: each direction of the subspace counts alike,
      however much energy it carries. (Of U_k S_k it would be close to the patches' norms.)
    * `rank="energy"`: k is the smallest rank whose squared singular values sum to `rank_energy` of
      the whole. The paper tries 0.7 to 0.95; we take **0.9**.
    * `rank="budget"`: k = min(that rank, M). The theory of column subsets wants k <= M, and the
      choice changes most of the selection. The paper writes the first, which is the default.
    * The **adaptive** rule needs a cap: on flat spectra 0.9 of the leverage lies on half of the
      patches or more. So an adaptive `Budget` always has a number of tokens beside its energy.
    * **Ties** (duplicate patches): the lower index wins. Scores are taken one by one, so that two
      like patches may both be kept; rules that look at the set as a whole are other selectors.
    * An image without any contrast (F = 0, or centred and uniform) has no subspace: every patch
      has the leverage 1 / n.
    * Patches that show only **padding** are left out of F and are never kept.

    Exactness. U_k is computed from the smaller of the Gram matrices F F^T [n, n] and F^T F [D, D]
    (U_k = F V_k / S_k), both formed and decomposed in **float64**, so that the kept indices equal
    those of a full SVD in float64 (`test/selection/test_svd.py`). In float32 they would not: there
    the scores of random 576 x 1024 matrices were off by up to 2e-6, neighbours in the ranking lie
    closer than that, and the kept sets of 2 matrices in 105 differed. In float64 the scores were
    off by 1e-16 and no set differed. For 576 x 1024 it takes 45 to 50 ms of one CPU core with
    AVX-512, some 63 with AVX2, where float32 takes half of that (`docs/selectors.md` says what
    else was weighed), and no setting such as TF32 can touch it. The small eigenproblem is always
    solved on the CPU: GPU solvers are slow on one small matrix. (Where the k-th and the next
    singular value are equal to the last digit, U_k is not defined, and no two methods need agree.)

    Attributes:
        rank: how k is chosen.
        rank_energy: the share of the squared singular values that U_k stands for, 0 < e <= 1.
        centre: take the mean patch away first.
        warm_start: for a stream of images: start from the last image's subspace, and decompose
            anew if that does not prove the same patches (`selection/warm.py`). The selection is
            the same; scores for display are within 1e-6. Then a selector has a state, `warm`, and
            belongs to one thread.
    """

    name: ClassVar[str] = "svd"
    needs: ClassVar[frozenset[Need]] = frozenset()
    rank: Rank = "energy"
    rank_energy: float = 0.9
    centre: bool = False
    warm_start: bool = False

    def __post_init__(self) -> None:
        check_svd(self.rank, self.rank_energy)
        if not isinstance(self.warm_start, bool):
            raise UserError(
                f"The svd selector's warm_start is True or False, not '{self.warm_start}'."
            )

    @cached_property
    def warm(self) -> WarmStart:
        """What `warm_start` remembers of the last image, and how often that was enough."""
        return WarmStart()

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep the patches of highest leverage. See the class for the rule."""
        patches = rows_of(features.patches, features)
        largest_rank = budget.tokens if self.rank == "budget" else None
        if self.warm_start:
            scores = self._from_last(patches, largest_rank, budget)
        else:
            scores = leverage(
                patches, self.rank_energy, largest_rank=largest_rank, centre=self.centre
            )
        return keep_highest(scores, features, budget)

    def _from_last(self, matrix: Tensor, largest_rank: int | None, budget: Budget) -> Tensor:
        if self.centre:
            matrix = matrix - matrix.mean(dim=0)
        products = gram(matrix if len(matrix) <= matrix.shape[1] else matrix.T).cpu()
        target = (self.rank_energy - ENERGY_RESOLUTION) * float(products.trace())
        limit = len(products) if largest_rank is None else min(largest_rank, len(products))
        scores = self.warm.scores(matrix, products, target, limit, budget)
        if scores is not None:
            return scores
        return leverage(
            matrix,
            self.rank_energy,
            largest_rank=largest_rank,
            products=products,
            memory=self.warm,
        )


def leverage(
    patches: Tensor,
    rank_energy: float = 0.9,
    *,
    largest_rank: int | None = None,
    centre: bool = False,
    products: Tensor | None = None,
    memory: WarmStart | None = None,
) -> Tensor:
    """Leverage scores l_i = |U_k[i]|^2 / k of the rows of a matrix; see `SvdPrune`.

    Args:
        patches: float [n, D], finite.
        rank_energy: k is the smallest rank with this share of the squared singular values.
        largest_rank: k is at most this; None: no limit.
        centre: take the mean row away first.
        products: see `dominant_subspace`.
        memory: is told the eigenvectors.

    Returns:
        float64 [n], summing to 1, on the device of `patches`.
    """
    top = dominant_subspace(
        patches,
        rank_energy,
        largest_rank=largest_rank,
        centre=centre,
        products=products,
        memory=memory,
    )
    if not top.shape[1]:
        rows = len(patches)
        return torch.full((rows,), 1.0 / rows, dtype=torch.float64, device=patches.device)
    scores = top.square().sum(dim=1)
    return scores / scores.sum()


def dominant_subspace(
    patches: Tensor,
    rank_energy: float = 0.9,
    *,
    largest_rank: int | None = None,
    centre: bool = False,
    products: Tensor | None = None,
    memory: WarmStart | None = None,
) -> Tensor:
    """U_k: what spans the columns of a matrix but for a rest of its energy; see `SvdPrune`.

    Takes what `leverage` takes, and in `products` the scalar products of the rows (centred, if
    that is wanted), float64 [n, n], if they are known already; of the columns, [D, D], if
    these are fewer.

    Returns:
        float64 [n, k], orthonormal columns, on the device of `patches`; k = 0 for a matrix of
        zeros.
    """
    matrix = patches.to(torch.float64)
    if centre:
        matrix = matrix - matrix.mean(dim=0)
    rows, columns = matrix.shape
    wide = rows <= columns
    if products is None or len(products) != min(rows, columns):
        products = gram(matrix if wide else matrix.T)
    # eigh returns ascending eigenvalues: the squared singular values, S^2, from the other end.
    energies, vectors = torch.linalg.eigh(products.cpu())
    energies = energies.flip(0).clamp(min=0.0)
    if not float(energies[0]) > 0.0:
        return matrix[:, :0]
    k = rank_of(energies, rank_energy)
    if largest_rank is not None:
        k = min(k, largest_rank)
    vectors = vectors.flip(1)
    if memory is not None:
        memory.remember(vectors, k, (rows, columns))
    top: Tensor = vectors[:, :k].to(patches.device)
    if not wide:
        top = matrix @ (top / energies[:k].sqrt().to(patches.device))
    return top


def rank_of(energies: Tensor, share: float) -> int:
    """The smallest k whose first k energies sum to a share of all; never counts what is rounding.

    Args:
        energies: float64 [m], descending, not negative, the first above 0.
        share: 0 < share <= 1.
    """
    reached = torch.cumsum(energies, 0) >= (share - ENERGY_RESOLUTION) * energies.sum()
    return int(torch.nonzero(reached)[0]) + 1
