# SPDX-License-Identifier: Apache-2.0
"""The two-layer projector from vision features to the language model's embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from svd_vlm_ros.selection.interface import Selection, VisualFeatures

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


class Projector:
    """Projects the kept patches only: its cost falls with the budget."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self._projector = model.model.multi_modal_projector

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tensor:
        """Return the visual tokens [k, hidden] of the kept patches, in raster order."""
        if selection.merge is not None:
            raise NotImplementedError("merged patches are reserved for later selectors")
        return self._projector(features.patches[selection.indices])
