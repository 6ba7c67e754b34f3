# SPDX-License-Identifier: Apache-2.0
"""What selectors share that compare patches with the question: the space of the comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.interface import Need, VisualFeatures
from svd_vlm_ros.selection.ranking import needed

Space = Literal["clip", "words"]


@dataclass(frozen=True)
class TextRelevance:
    """The options of a selector that looks at the question through `VisualFeatures.image_text`.

    Attributes:
        relevance: the space of the comparison. "clip": that of a CLIP model on this machine, as
            the papers have it; a LLaVA checkpoint does not hold CLIP's text tower. "words": the
            language model's word embeddings against the projected patches, which every model has
            (the embedded `scout` has nothing else), and which no paper has tried.
        clip: for "clip": the model that LLaVA's vision tower was taken from.
    """

    relevance: Space = "clip"
    clip: str = "openai/clip-vit-large-patch14-336"

    def __post_init__(self) -> None:
        if self.relevance not in get_args(Space):
            raise UserError(f"The relevance is 'clip' or 'words', not '{self.relevance}'.")

    @property
    def name(self) -> str:
        """The name that users write; each selector has its own."""
        raise NotImplementedError

    @property
    def needs(self) -> frozenset[Need]:
        """Patches and question in one space; by words that takes the projected patches."""
        if self.relevance == "words":
            return frozenset({"image_text", "projected"})
        return frozenset({"image_text"})

    def relevances(self, features: VisualFeatures) -> np.ndarray:
        """How relevant each valid patch is: float64 [n], larger is more."""
        common = needed(features.image_text, "image_text", self.name)
        valid = features.valid_indices()
        relevance = common.relevance()
        return relevance[valid.to(relevance.device)].cpu().numpy()
