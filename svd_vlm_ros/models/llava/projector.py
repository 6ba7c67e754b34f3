# SPDX-License-Identifier: Apache-2.0
"""The two-layer projector from vision features to the language model's embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svd_vlm_ros.models.interface import Tokens
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.tokens import token_rows
from svd_vlm_ros.selection.values import Selection

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


class Projector:
    """Projects the kept tokens only: its cost falls with the budget."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self._projector = model.model.multi_modal_projector

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tokens:
        """Return the visual tokens [k, hidden] of what was kept, in the order of its patches."""
        as_they_are = selection.merge is None and selection.features is None
        if features.projected is not None and as_they_are:
            return Tokens.in_order(features.projected[selection.indices])
        return Tokens.in_order(self._projector(token_rows(features, selection)))
