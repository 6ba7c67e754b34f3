# SPDX-License-Identifier: Apache-2.0
"""SCOPE: keep patches that the class token looks at and that cover the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.selection.greedy import greedy_coverage
from svd_vlm_ros.selection.interface import Budget, Need, Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import tokens_of
from svd_vlm_ros.selection.sets import class_token_attention, cosines, keep_all, keep_set, rows_of


@dataclass(frozen=True)
class Scope:
    """SCOPE (NeurIPS 2025).

    With S the cosines of the patches and c_i the largest similarity of patch i with those chosen
    (at first 0), the next patch is the one with the largest a_j sum_i max(0, S_ij - c_i): what it
    covers of the image that is not covered yet, times how much the class token looks at it.

    Our readings: a is the mean over heads, in the layer whose output LLaVA reads, at its first
    power (the paper's exponent of it is 1).
    """

    name: ClassVar[str] = "scope"
    needs: ClassVar[frozenset[Need]] = frozenset({"class_attention"})

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what covers. The scores are the gains."""
        tokens = tokens_of(budget, self.name)
        looks = class_token_attention(features, self.name)
        if tokens >= len(looks):
            return keep_all(features, looks)
        similarity = cosines(rows_of(features.patches, features))
        kept, gains = greedy_coverage(similarity, tokens, looks)
        return keep_set(features, np.array(kept), gains)
