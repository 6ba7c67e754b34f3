# SPDX-License-Identifier: Apache-2.0
"""The vision tower, up to the layer that LLaVA looks at, and what selectors want to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from svd_vlm_ros.models.images import ProcessedImage
from svd_vlm_ros.models.llava.architecture import vision_layers
from svd_vlm_ros.selection.features import Encoder, VisualFeatures
from svd_vlm_ros.selection.interface import EncoderSelector
from svd_vlm_ros.selection.values import NEEDS, QUESTION_NEEDS, Budget, Need

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


class VisionTower:
    """CLIP's encoder from pixels to patch features.

    LLaVA takes the hidden states of the last layer but one, without CLS. The layers after it are
    never computed: of CLIP ViT-L/14 the last of 24, 4 % of the tower's time.
    """

    gives = frozenset(NEEDS) - QUESTION_NEEDS

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        tower = model.model.vision_tower
        self._embeddings = tower.embeddings
        self._norm = tower.pre_layrnorm
        self._layers = tower.encoder.layers[: vision_layers(model.config)]
        self._weight = tower.embeddings.patch_embedding.weight
        self._projector = model.model.multi_modal_projector

    def __call__(
        self,
        image: ProcessedImage,
        needs: frozenset[Need] = frozenset(),
        selector: EncoderSelector | None = None,
        budget: Budget | None = None,
    ) -> VisualFeatures:
        """Encode one image.

        Args:
            image: what to see.
            needs: what is wanted beyond the patches. "image_text" and "question" are left to whom
                the question is known (`clip_text.py`).
            selector: one that works inside the encoder (need "encoder"); with `budget`, it runs the
                layers in place of the tower. Without it, such a need yields the opened tower, so
                that several budgets can share one image.
            budget: for that selector.

        Returns:
            Features [N, D] in the tower's dtype, on its device, with what was needed.
        """
        pixels = image.pixels.to(self._weight.device, self._weight.dtype)
        hidden = self._norm(self._embeddings(pixels))  # [1, 1 + N, D]
        grid = image.framing.grid
        valid = image.framing.valid()
        if valid is not None:
            valid = valid.to(hidden.device)
        encoder = Encoder(hidden, self._layers) if "encoder" in needs else None
        if encoder is not None and selector is not None and budget is not None:
            patches, encoded = selector.encode(encoder, grid, valid, budget)
            return VisualFeatures(patches, grid, valid, encoded=encoded)
        for layer in self._layers[:-1]:
            hidden = layer(hidden, None)
        extra: dict[str, Any] = {}
        if needs & {"class_attention", "keys"}:
            looks = looks_of_class_token(self._layers[-1], hidden, needs)
            extra.update({name: each[0] for name, each in looks.items()})
        hidden = self._layers[-1](hidden, None)
        if "class_attention" in needs:
            extra["class_token"] = hidden[0, 0]
        if "projected" in needs:
            extra["projected"] = self._projector(hidden[0, 1:])
        return VisualFeatures(hidden[0, 1:], grid, valid, encoder=encoder, **extra)


def looks_of_class_token(
    layer: nn.Module, hidden: Tensor, needs: frozenset[Need]
) -> dict[str, Tensor]:
    """The keys of a layer, and how much its CLS row looks at each patch.

    The layer itself goes on with fused attention, which keeps no weights. Its keys are computed a
    second time here, 0.3 % of the tower's work, and a single row of queries.

    Args:
        layer: of the tower.
        hidden: [t, 1 + N, D] of t images or tiles, what the layer is given.
        needs: see `VisionTower.__call__`.

    Returns:
        By the names of `VisualFeatures`, each with t in front of its shape.
    """
    attention: Any = layer.self_attn
    normed = layer.layer_norm1(hidden)  # type: ignore[operator]
    split = (*hidden.shape[:2], attention.num_heads, attention.head_dim)
    keys = attention.k_proj(normed).view(split).float()  # [t, 1 + N, heads, head size]
    found: dict[str, Tensor] = {}
    if "class_attention" in needs:
        query = attention.q_proj(normed[:, 0]).view(-1, *split[2:]).float()  # [t, heads, head size]
        weights = torch.einsum("thd,tnhd->thn", query, keys) * attention.scale
        found["class_attention"] = weights.softmax(dim=-1)[..., 1:]
    if "keys" in needs:
        keys = keys.mean(dim=2)
        found["class_key"], found["keys"] = keys[:, 0], keys[:, 1:]
    return found
