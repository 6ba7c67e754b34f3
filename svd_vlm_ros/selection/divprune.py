# SPDX-License-Identifier: Apache-2.0
"""DivPrune: keep patches of which no two are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.selection.greedy import greedy_diversity
from svd_vlm_ros.selection.interface import Budget, Need, Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import needed, tokens_of
from svd_vlm_ros.selection.sets import cosines, keep_all, keep_set, rows_of


@dataclass(frozen=True)
class DivPrune:
    """DivPrune (arXiv 2503.02175): the max-min diversity problem, solved greedily.

    The distance of two patches is 1 minus the cosine of their projected tokens. The first patch is
    the one whose nearest neighbour is farthest away, each next one the patch that is farthest from
    the nearest of those chosen. It looks at the image alone.

    It projects all patches first, so that it saves nothing of the projector's (small) work.
    """

    name: ClassVar[str] = "divprune"
    needs: ClassVar[frozenset[Need]] = frozenset({"projected"})

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what differs. The scores are the distances at which patches were taken, of the
        others what separates them from the nearest kept one.
        """
        tokens = tokens_of(budget, self.name)
        projected = needed(features.projected, "projected", self.name)
        if tokens >= len(features.valid_indices()):
            return keep_all(features)
        kept, worth = greedy_diversity(1.0 - cosines(rows_of(projected, features)), tokens)
        return keep_set(features, np.array(kept), worth)
