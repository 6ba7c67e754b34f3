# SPDX-License-Identifier: Apache-2.0
"""InternVL's encoder over the tiles of an image, and how much their class tokens look at what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from svd_vlm_ros.models.images import ProcessedImage, TiledFraming
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.interface import EncoderSelector
from svd_vlm_ros.selection.values import Budget, Need


class InternVLEncoder:
    """From pixel values to fours of patches: `interface.VisionEncoder`."""

    gives: frozenset[Need] = frozenset({"class_attention", "projected"})

    def __init__(self, model: Any) -> None:
        """Take the vision tower, the projector and the pixel shuffle of a model."""
        self._tower, self._projector = model.vision_tower, model.multi_modal_projector
        self._shuffle, self._ratio = model.pixel_shuffle, float(model.config.downsample_ratio)
        self._weight = self._tower.embeddings.patch_embeddings.projection.weight

    def __call__(
        self,
        image: ProcessedImage,
        needs: frozenset[Need] = frozenset(),
        selector: EncoderSelector | None = None,
        budget: Budget | None = None,
    ) -> VisualFeatures:
        """Encode one image; see `interface.VisionEncoder`.

        Returns:
            Features [N, 4 * D] of N fours, tile behind tile: the rows that the projector takes.
        """
        pixels = image.pixels.to(self._weight.device, self._weight.dtype)
        hidden = self._tower.embeddings(pixels)  # [tiles, 1 + patches, D]
        *layers, last = self._tower.encoder.layer
        for layer in layers:
            hidden = layer(hidden)
        looks = self._fours_looked_at(last, hidden) if "class_attention" in needs else None
        hidden = self._tower.layernorm(last(hidden))
        side = round((hidden.shape[1] - 1) ** 0.5)
        squares = hidden[:, 1:].unflatten(1, (side, side))
        patches = self._shuffle(squares, scale_factor=self._ratio).flatten(0, 2)
        features = VisualFeatures(
            patches,
            image.framing.grid,
            class_attention=looks,
            projected=self._projector(patches) if "projected" in needs else None,
        )
        if not isinstance(image.framing, TiledFraming):
            return features
        tiles = tuple(tile.grid for tile in image.framing.tiles)
        return replace(features, tiles=tiles, thumbnail=image.framing.thumbnail)

    def _fours_looked_at(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """How much the class tokens look at each four: [heads, N], the mean over its patches.

        A row sums to less than 1 over all tiles together.
        """
        looks = _looks_of_class_tokens(layer, hidden)
        side = round(looks.shape[2] ** 0.5)
        fours = avg_pool2d(looks.unflatten(2, (side, side)), round(1 / self._ratio))
        return fours.transpose(0, 1).flatten(1) / len(looks)


def _looks_of_class_tokens(layer: Any, hidden: Tensor) -> Tensor:
    """How much the class token of each tile looks at its patches: float32 [tiles, heads, patches].

    The layer itself goes on with fused attention, which keeps no weights: its keys are computed a
    second time here.

    Args:
        layer: of the tower.
        hidden: [tiles, 1 + patches, D], what the layer is given.
    """
    attention = layer.attention
    normed = layer.layernorm_before(hidden)
    heads = attention.num_heads, attention.head_dim
    keys = attention.k_norm(attention.k_proj(normed)).unflatten(2, heads).float()
    queries = attention.q_norm(attention.q_proj(normed[:, 0])).unflatten(1, heads).float()
    weights = torch.einsum("thd,tnhd->thn", queries, keys) * attention.scale
    return torch.softmax(weights, dim=2)[:, :, 1:]
