# SPDX-License-Identifier: Apache-2.0
"""CDPruner: keep patches that are relevant to the question and unlike each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.selection.greedy import greedy_volume
from svd_vlm_ros.selection.interface import Budget, Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import ranked, tokens_of
from svd_vlm_ros.selection.relevance import TextRelevance
from svd_vlm_ros.selection.sets import cosines, keep_all, keep_set, rows_of


@dataclass(frozen=True)
class CdPruner(TextRelevance):
    """CDPruner (NeurIPS 2025): the likeliest set of a determinantal point process, greedily.

    The relevance r of a patch is minus its similarity with the question in the common space (see
    `trim`), scaled to 0 .. 1 over the image. The kernel is L = diag(r) cos(patches) diag(r); the
    next patch is the one with which the determinant of the chosen block grows the most.

    Our readings: the cosines are those of the tower's features before the projector. The least
    relevant patch has r = 0 and adds no volume; if nothing adds any (more tokens than the
    features' rank, like patches), the rest is taken by relevance. Where all patches are equally
    relevant, r = 1.
    """

    name: ClassVar[str] = "cdpruner"

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what is relevant and differs. The scores are the gains: squared distances."""
        tokens = tokens_of(budget, self.name)
        relevance = self.relevances(features)
        span = relevance.max() - relevance.min()
        relevance = (relevance - relevance.min()) / span if span > 0.0 else np.ones_like(relevance)
        if tokens >= len(relevance):
            return keep_all(features, relevance)
        similarity = cosines(rows_of(features.patches, features))
        kernel = relevance[:, None] * similarity * relevance[None, :]
        kept, gains = greedy_volume(kernel, tokens)
        order = ranked(relevance)
        kept += order[~np.isin(order, kept)][: tokens - len(kept)].tolist()
        return keep_set(features, np.array(kept), gains)
