# SPDX-License-Identifier: Apache-2.0
"""HiRED: keep the patches that the class token looks at the most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from svd_vlm_ros.selection.interface import Budget, Need, Selection, VisualFeatures, keep_highest
from svd_vlm_ros.selection.sets import class_token_attention


@dataclass(frozen=True)
class Hired:
    """HiRED (arXiv 2408.10945) as it acts on LLaVA-1.5, where an image is one square.

    The score of a patch is the sum over all heads of the class token's attention to it; the top M
    are kept.
    HiRED's other half, sharing a budget among the parts of a large image, has nothing to do here.

    Our readings: the attention is that of the layer whose output LLaVA reads (the paper takes an
    early layer for the sharing and a late one for the choice); padding is left out and the scores
    are scaled to a sum of 1, so that an adaptive budget keeps a share of that attention.
    """

    name: ClassVar[str] = "hired"
    needs: ClassVar[frozenset[Need]] = frozenset({"class_attention"})

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what the class token looks at."""
        return keep_highest(
            torch.from_numpy(class_token_attention(features, self.name)), features, budget
        )
