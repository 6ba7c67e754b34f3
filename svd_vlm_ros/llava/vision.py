# SPDX-License-Identifier: Apache-2.0
"""The vision tower, up to the layer that LLaVA looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svd_vlm_ros.llava.architecture import vision_layers
from svd_vlm_ros.llava.preprocess import Picture
from svd_vlm_ros.selection.interface import VisualFeatures

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


class VisionTower:
    """CLIP's encoder from pixels to patch features.

    LLaVA takes the hidden states of the last layer but one, without CLS. The layers after it are
    never computed: of CLIP ViT-L/14 the last of 24, 4 % of the tower's time.
    """

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        tower = model.model.vision_tower
        self._embeddings = tower.embeddings
        self._norm = tower.pre_layrnorm
        self._layers = tower.encoder.layers[: vision_layers(model.config)]
        self._weight = tower.embeddings.patch_embedding.weight

    def __call__(self, picture: Picture) -> VisualFeatures:
        """Encode one picture: features [N, D] in the tower's dtype, on its device."""
        pixels = picture.pixels.to(self._weight.device, self._weight.dtype)
        hidden = self._norm(self._embeddings(pixels))  # [1, 1 + N, D]
        for layer in self._layers:
            hidden = layer(hidden, None)
        valid = picture.framing.valid()
        if valid is not None:
            valid = valid.to(hidden.device)
        return VisualFeatures(hidden[0, 1:], picture.framing.grid, valid)
