# SPDX-License-Identifier: Apache-2.0
"""Leverage-weighted coverage: this project's own rule, leverage for what is rare and coverage of
the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.greedy import greedy_coverage
from svd_vlm_ros.selection.interface import Budget, Need, Selection, VisualFeatures
from svd_vlm_ros.selection.sets import cosines, keep_all, keep_set, rows_of
from svd_vlm_ros.selection.svd import leverage

# What a sum of rounded shares may lack of the share that it stands for.
SHARE_RESOLUTION = 1e-9


@dataclass(frozen=True)
class SvdCover:
    """Keep the patches that together cover the picture, what is rare in it counting more.

    With S_ij = max(0, cos(f_i, f_j)) the similarity of the patches [n, D], l_i the leverage of
    SVD-Prune (arXiv 2604.11530, see `SvdPrune`) and beta from 0 to 1, patch i has the weight

        w_i = (1 - beta) / n + beta l_i

    and a set K covers the share C(K) = sum_i w_i max_{j in K} S_ij of the picture: 1 where every
    patch is kept. Patches are taken one by one, each time the one that adds most to C (the greedy
    rule for facility location; C is submodular, so that it reaches 1 - 1/e of the best set or
    more).

    Why. Leverage scores patches one by one: all patches of a rare object score high, and a small
    budget goes into one of them, while ground and sky, of which there is much, are not seen at
    all. A coverage rule without weights (SCOPE without CLS, MMTok's second term) sees all that is
    large. The weights let one patch of a small sign outweigh the tenth patch of grass, and
    coverage sees to it that one is enough. `docs/selectors.md` has what was tried, and what each
    part is worth.

    The rule looks at the picture alone, so that a Scene can be asked many questions, and it needs
    no attention weights. A fixed budget keeps its number of tokens; an adaptive one keeps the
    fewest whose C reaches its energy, and at most its number. The scores for display are what
    each patch added to C, of the others what it would still add. Ties: the lower index.

    Attributes:
        beta: how much leverage counts, 0 (coverage alone) to 1.
        rank_energy: of the leverage, as in `SvdPrune`.
        centre: as in `SvdPrune`, for the leverage; here True, since the mean patch is no news.
    """

    name: ClassVar[str] = "svd-cover"
    needs: ClassVar[frozenset[Need]] = frozenset()
    beta: float = 0.3
    rank_energy: float = 0.9
    centre: bool = True

    def __post_init__(self) -> None:
        for name in ("beta", "rank_energy"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0 or (name == "rank_energy" and value == 0.0):
                raise UserError(
                    f"The svd-cover selector's {name} must be from 0 to 1, not {value}."
                )

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what covers."""
        rows = rows_of(features.patches, features)
        count = min(budget.tokens, len(rows))
        if budget.energy is None and count == len(rows):
            return keep_all(features)
        weights = np.full(len(rows), (1.0 - self.beta) / len(rows))
        if self.beta:
            shares = leverage(rows, self.rank_energy, centre=self.centre)
            weights += self.beta * shares.cpu().numpy()
        similarity = np.maximum(cosines(rows), 0.0)
        kept, gains = greedy_coverage(similarity * weights, count)
        if budget.energy is not None:
            reached = np.cumsum(gains[kept]) >= budget.energy - SHARE_RESOLUTION
            kept = kept[: int(reached.argmax()) + 1 if reached.any() else count]
        return keep_set(features, np.array(kept), gains)
