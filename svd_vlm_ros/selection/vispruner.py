# SPDX-License-Identifier: Apache-2.0
"""VisPruner: half of the tokens by the class token's attention, half by dropping duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.interface import Budget, Need, Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import ranked, tokens_of
from svd_vlm_ros.selection.sets import class_token_attention, cosines, keep_all, keep_set, rows_of


@dataclass(frozen=True)
class VisPruner:
    """VisPruner (ICCV 2025).

    The first M // 2 tokens are the patches that the class token looks at the most. The others, in
    raster order,
    are split into two halves, even and odd places; the 8 even ones that are most like an odd one
    (cosine) are dropped; this is done again until M - M // 2 are left.

    Our readings: it is the even ones that are dropped, with which odd one they agree does not
    matter; after each round the patches are in raster order again; the last round drops fewer than
    8 if fewer are too many. If there are fewer even ones than 8, a round drops them all.

    Attributes:
        important: the share of tokens that the class token chooses.
        round_size: how many are dropped in a round.
    """

    name: ClassVar[str] = "vispruner"
    needs: ClassVar[frozenset[Need]] = frozenset({"class_attention"})
    important: float = 0.5
    round_size: int = 8

    def __post_init__(self) -> None:
        if not 0.0 <= self.important <= 1.0:
            raise UserError(f"important is a share from 0 to 1, not {self.important}.")
        if self.round_size < 1:
            raise UserError(f"round_size must be 1 or more, not {self.round_size}.")

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what the class token looks at and what differs. The scores are its attention."""
        tokens = tokens_of(budget, self.name)
        looks = class_token_attention(features, self.name)
        if tokens >= len(looks):
            return keep_all(features, looks)
        order = ranked(looks)
        first = int(tokens * self.important)
        left = np.sort(order[first:])
        similarity = cosines(rows_of(features.patches, features))
        while len(left) > tokens - first:
            even, odd = left[::2], left[1::2]
            likeness = similarity[np.ix_(even, odd)].max(axis=1, initial=-1.0)
            drop = even[ranked(likeness)[: min(self.round_size, len(left) - (tokens - first))]]
            left = np.setdiff1d(left, drop, assume_unique=True)
        return keep_set(features, np.concatenate([order[:first], left]), looks)
