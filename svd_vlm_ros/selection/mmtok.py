# SPDX-License-Identifier: Apache-2.0
"""MMTok: keep patches that cover the question's words and the image, both at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.greedy import greedy_coverage
from svd_vlm_ros.selection.interface import Budget, Need, Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import needed, tokens_of
from svd_vlm_ros.selection.sets import cosines, keep_all, keep_set, rows_of


@dataclass(frozen=True)
class MmTok:
    """MMTok (arXiv 2508.18264, ICLR 2026).

    P = softmax(cos(question, projected patches) / 0.02) is how well each patch covers each token of
    the question, Q = softmax(cos(patches, patches) / 0.2) how well it covers each patch. Chosen is,
    one by one, the patch that adds the most to the sum over the rows of [P; 0.5 Q] of the largest
    entry among the chosen columns.

    Our readings: each softmax is taken over the patches that can be chosen, for each row (each
    thing that is to be covered) by itself; rows of P and Q add up without dividing by how many
    there are; the question's tokens are those of its text, without the prompt's own words; its
    variant that lets a second model write a text first is not here.

    Attributes:
        text_temperature, patch_temperature: of the two softmaxes.
        patch_weight: the 0.5 above.
    """

    name: ClassVar[str] = "mmtok"
    needs: ClassVar[frozenset[Need]] = frozenset({"projected", "question"})
    text_temperature: float = 0.02
    patch_temperature: float = 0.2
    patch_weight: float = 0.5

    def __post_init__(self) -> None:
        for option in ("text_temperature", "patch_temperature"):
            if not getattr(self, option) > 0.0:
                raise UserError(f"{option} must be above 0, not {getattr(self, option)}.")
        if not self.patch_weight >= 0.0:
            raise UserError(f"patch_weight must be 0 or more, not {self.patch_weight}.")

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what covers. The scores are the gains."""
        tokens = tokens_of(budget, self.name)
        question = needed(features.question, "question", self.name).double()
        projected = rows_of(needed(features.projected, "projected", self.name), features)
        if tokens >= len(projected):
            return keep_all(features)
        of_text = _softmax(cosines(question.to(projected.device), projected), self.text_temperature)
        of_patches = _softmax(cosines(rows_of(features.patches, features)), self.patch_temperature)
        of_patches *= self.patch_weight
        coverage = np.concatenate([of_text, of_patches])  # [t + n, n]
        kept, gains = greedy_coverage(coverage, tokens)
        return keep_set(features, np.array(kept), gains)


def _softmax(values: np.ndarray, temperature: float) -> np.ndarray:
    """Over each row."""
    return torch.from_numpy(values).div_(temperature).softmax(dim=1).numpy()
