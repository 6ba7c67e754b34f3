# SPDX-License-Identifier: Apache-2.0
"""SmolVLM's encoder as transformers runs it: every tile alone, patches joined to blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svd_vlm_ros.models.images import Framing, ProcessedImage
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.interface import EncoderSelector
from svd_vlm_ros.selection.values import Budget, Need


@dataclass(frozen=True, eq=False)
class CutFeatures(VisualFeatures):
    """The blocks of an image that was cut.

    Attributes:
        cut: rows and columns of its tiles beside the thumbnail; (0, 0): it was not cut.
    """

    cut: tuple[int, int] = (0, 0)


class TileEncoder:
    """From pixel values to blocks of patches: `interface.VisionEncoder`."""

    gives: frozenset[Need] = frozenset({"projected"})

    def __init__(self, model: Any) -> None:
        parts = model.model
        self._encoder, self._connector = parts.vision_model, parts.connector
        self._weight = parts.vision_model.embeddings.patch_embedding.weight

    def __call__(
        self,
        image: ProcessedImage,
        needs: frozenset[Need] = frozenset(),
        selector: EncoderSelector | None = None,
        budget: Budget | None = None,
    ) -> CutFeatures:
        """Encode one image; see `interface.VisionEncoder`.

        No pixel is padded (see `images`), so that every patch looks at all others of its tile.

        Returns:
            Features [N, scale**2 * D] of N blocks, tile behind tile.
        """
        pixels = image.pixels.to(self._weight.device, self._weight.dtype)
        patches = self._encoder(pixels).last_hidden_state  # [tiles, patches, D]
        blocks = self._connector.pixel_shuffle(patches, self._connector.scale_factor).flatten(0, 1)
        projected = self._connector.modality_projection(blocks) if "projected" in needs else None
        framing = image.framing
        if isinstance(framing, Framing):
            return CutFeatures(blocks, framing.grid, projected=projected)
        cut = framing.tiles[: framing.thumbnail]
        rows = len({tile.y0 for tile in cut})
        return CutFeatures(
            blocks,
            None,
            projected=projected,
            tiles=tuple(tile.grid for tile in framing.tiles),
            thumbnail=framing.thumbnail,
            cut=(rows, len(cut) // rows),
        )
