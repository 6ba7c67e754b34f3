# SPDX-License-Identifier: Apache-2.0
"""Gemma 3's encoder: SigLIP as transformers runs it, and averages over squares of its patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from svd_vlm_ros.models.images import ProcessedImage
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.interface import EncoderSelector
from svd_vlm_ros.selection.values import Budget, Need


class Gemma3Encoder:
    """From pixel values to averages of patches: `interface.VisionEncoder`."""

    gives: frozenset[Need] = frozenset({"projected"})

    def __init__(self, model: Any) -> None:
        """Take the vision tower and the projector of a model."""
        self._tower, self._projector = model.vision_tower, model.multi_modal_projector
        self._weight = self._projector.mm_input_projection_weight

    def __call__(
        self,
        image: ProcessedImage,
        needs: frozenset[Need] = frozenset(),
        selector: EncoderSelector | None = None,
        budget: Budget | None = None,
    ) -> VisualFeatures:
        """Encode one image; see `interface.VisionEncoder`.

        Returns:
            Features [N, D]: the averages that the projector's norm takes.
        """
        pixels = image.pixels.to(self._weight.device, self._weight.dtype)
        seen = self._tower(pixel_values=pixels).last_hidden_state[0]  # [patches, D]
        side = self._projector.patches_per_image
        averages = self._projector.avg_pool(seen.T.reshape(1, -1, side, side))
        patches = averages.flatten(2)[0].T.contiguous()
        projected = projection(self._projector)(patches) if "projected" in needs else None
        return VisualFeatures(patches, image.framing.grid, projected=projected)


def projection(projector: Any) -> Callable[[Tensor], Tensor]:
    """The second half of a projector, behind its averages: rows [k, D] to [k, hidden]."""

    def project(rows: Tensor) -> Tensor:
        made: Tensor = projector.mm_soft_emb_norm(rows) @ projector.mm_input_projection_weight
        return made.type_as(rows)

    return project
