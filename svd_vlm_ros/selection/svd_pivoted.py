# SPDX-License-Identifier: Apache-2.0
"""SVD-Prune that looks at the set: pivoted QR on the dominant subspace, not top leverage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.greedy import greedy_volume
from svd_vlm_ros.selection.interface import Budget, Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import ranked, tokens_of
from svd_vlm_ros.selection.sets import gram, keep_all, keep_set, rows_of
from svd_vlm_ros.selection.svd import SvdPrune, dominant_subspace


@dataclass(frozen=True)
class SvdPivoted(SvdPrune):
    """QR with column pivoting on U_k^T, the classical way to choose columns from a subspace.

    The first patch is the one of highest leverage, as in `svd`. Each next one is the patch whose
    row of U_k stands out the most from the span of the rows chosen: of two patches that show the
    same, the second has nothing left to add. `svd` scores patches one by one and takes both.

    After k patches every row of U_k lies in the span of those chosen. From there on the rule goes
    on with the **full rows** of F: the patch is taken that stands out the most from the span of the
    chosen patches, in what energy they leave. (To start again on U_k would take the neighbours of
    the first k.) Where even that is used up, more tokens than F has dimensions, the rest is taken
    by leverage.

    The options are those of `svd`, and so is the cost, with some ms on top. Only `warm_start` is
    not to be had: its proof is about leverage, and of a chain of pivots there is none.
    """

    name: ClassVar[str] = "svd-pivoted"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_start:
            raise UserError("The svd-pivoted selector has no warm_start: take svd.")

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what stands out. The scores are the leverage."""
        tokens = tokens_of(budget, self.name)
        patches = rows_of(features.patches, features)
        if self.centre:
            patches = patches - patches.mean(dim=0)
        largest_rank = budget.tokens if self.rank == "budget" else None
        products = gram(patches)
        top = dominant_subspace(
            patches, self.rank_energy, largest_rank=largest_rank, products=products
        )
        leverage = top.square().sum(dim=1).cpu().numpy()
        if tokens >= len(patches):
            return keep_all(features, leverage)
        kept: list[int] = []
        if top.shape[1]:
            kept, _ = greedy_volume(gram(top).cpu().numpy(), min(tokens, top.shape[1]))
        if len(kept) < tokens:
            kept, _ = greedy_volume(products.cpu().numpy(), tokens, first=kept)
        order = ranked(leverage)
        kept += order[~np.isin(order, kept)][: tokens - len(kept)].tolist()
        return keep_set(features, np.array(kept), leverage)
