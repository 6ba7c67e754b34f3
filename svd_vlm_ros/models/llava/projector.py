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

    def __init__(self, model: LlavaForConditionalGeneration, original: bool = False) -> None:
        """Take the projector of a model; `original`: the kept tokens keep their position ids."""
        self._projector = model.model.multi_modal_projector
        self._original = original

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tokens:
        """Return the visual tokens [k, hidden] of what was kept, in the order of its patches."""
        as_they_are = selection.merge is None and selection.features is None
        if features.projected is not None and as_they_are:
            rows = features.projected[selection.indices]
        else:
            rows = self._projector(token_rows(features, selection))
        if self._original:
            return Tokens(rows, selection.indices, len(features))
        return Tokens.in_order(rows)

    def room(self, features: VisualFeatures, kept: int) -> int:
        """The position ids that the visual tokens take up."""
        return len(features) if self._original else kept
