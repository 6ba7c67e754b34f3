# SPDX-License-Identifier: Apache-2.0
"""TRIM: keep the patches that CLIP finds relevant to the question, and the mean of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.selection.interface import Budget, Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import ranked, tokens_of
from svd_vlm_ros.selection.relevance import TextRelevance
from svd_vlm_ros.selection.sets import keep_all, keep_set, merge_matrix


@dataclass(frozen=True)
class Trim(TextRelevance):
    """TRIM (arXiv 2409.10994).

    The score of a patch is the softmax over patches of minus its similarity with the question in
    CLIP's space (LLaVA's patches lie there the wrong way round: the least similar ones are the
    relevant ones). The top M - 1 are kept, and one token more is the mean of all others.

    Our readings: the paper finds the number of tokens by an outlier rule of its own and then
    compares at fixed numbers; here the number is the budget, the mean among it. The mean lies in
    raster order at the best patch that it stands for, where the paper puts it behind all others.
    With `relevance="words"` the most similar patches are the relevant ones.
    """

    name: ClassVar[str] = "trim"

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what is relevant and the mean of the rest. The scores are the softmax."""
        tokens = tokens_of(budget, self.name)
        relevance = self.relevances(features)
        scores = np.exp(relevance - relevance.max())
        if tokens >= len(relevance):
            return keep_all(features, scores)
        order = ranked(relevance)
        kept, rest = np.sort(order[:tokens]), order[tokens - 1 :]
        single = order[: tokens - 1]
        merge = merge_matrix(
            features,
            np.searchsorted(
                kept, np.concatenate([single, np.repeat(order[tokens - 1], len(rest))])
            ),
            1 + np.concatenate([single, rest]),
            np.concatenate([np.ones(len(single)), np.full(len(rest), 1.0 / len(rest))]),
            tokens,
        )
        return keep_set(features, kept, scores, merge)
