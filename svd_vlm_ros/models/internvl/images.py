# SPDX-License-Identifier: Apache-2.0
"""Images for InternVL: a rectangle of square tiles, and the whole image once more as the last one.

The pixel values come from transformers' own processor (its Pillow backend).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.images import TYPICAL, Framing, ProcessedImage, TiledFraming
from svd_vlm_ros.models.interface import ModelOptions

if TYPE_CHECKING:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

# No context has room for more of 256 tokens; the processor looks at all rectangles up to them.
MOST_TILES = 128


@dataclass(frozen=True, eq=False)
class InternVLImages:
    """See `interface.ImageProcessor`.

    Attributes:
        processor: transformers' own.
        side: visual tokens along a side of a tile.
    """

    processor: GotOcr2ImageProcessorPil
    side: int
    aspects = ("pad",)  # the whole image, as wide and high as the tiles are; nothing is padded

    @classmethod
    def make(
        cls, folder: Path | None, options: ModelOptions, random: dict[str, Any], four: int
    ) -> InternVLImages:
        """Read a checkpoint's settings.

        Args:
            folder: of the checkpoint; None: take `random`, the settings of a random model.
            options: bounds of pixels that come before the checkpoint's bounds of tiles.
            random: what the processor's class takes.
            four: pixels along the side of what one visual token shows of a tile.

        Raises:
            UserError: tiles are no squares of whole tokens, or no number of tiles fits the bounds.
        """
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
            GotOcr2ImageProcessorPil as Processor,
        )

        processor = (
            Processor(**random)
            if folder is None
            else Processor.from_pretrained(folder, local_files_only=True)
        )
        tile = processor.size["height"]
        if processor.size["width"] != tile or tile % four:
            raise UserError(
                f"This model's tiles are {tile} x {processor.size['width']} pixels: they must be "
                f"squares of a multiple of {four}."
            )
        # transformers' own InternVL processor cuts tiles whatever the image processor's file says.
        processor.crop_to_patches = True
        least, most = _tiles(options, tile * tile, processor.min_patches, processor.max_patches)
        processor.min_patches, processor.max_patches = least, most
        return cls(processor, tile // four)

    @property
    def size(self) -> int:
        """The longer side of a typical image."""
        return TYPICAL[1] if self.grid is None else int(self.processor.size["height"])

    @property
    def grid(self) -> tuple[int, int] | None:
        """That of the only tile; None: there may be several."""
        return (self.side, self.side) if self.processor.max_patches == 1 else None

    @property
    def tokens(self) -> int:
        """Visual tokens of an image of 640 x 480 pixels."""
        tiles = int(self.processor.get_number_of_image_patches(*TYPICAL, {}))
        return tiles * self.side**2

    def __call__(self, image: np.ndarray, aspect: str) -> ProcessedImage:
        """Pixel values float32 [tiles, 3, side, side], row by row, then the thumbnail."""
        # Else an image that is 1 or 3 pixels high would be taken for one with channels first.
        made = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")
        height, width = image.shape[:2]
        columns, rows = self._rectangle(height, width)
        across, down = width / columns, height / rows
        tiles = [
            self._tile(height, width, column * across, row * down, across, down)
            for row in range(rows)
            for column in range(columns)
        ]
        whole = self._tile(height, width, 0.0, 0.0, width, height)
        if len(tiles) == 1:
            return ProcessedImage(made["pixel_values"], whole)
        return ProcessedImage(made["pixel_values"], TiledFraming((*tiles, whole), len(tiles)))

    def _rectangle(self, height: int, width: int) -> tuple[int, int]:
        """Columns and rows of tiles."""
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
            get_optimal_tiled_canvas,
        )

        tile = self.processor.size["height"]
        bounds = self.processor.min_patches, self.processor.max_patches
        found: tuple[int, int] = get_optimal_tiled_canvas((height, width), (tile, tile), *bounds)
        return found

    def _tile(
        self, height: int, width: int, x0: float, y0: float, across: float, down: float
    ) -> Framing:
        side = self.side
        return Framing(height, width, x0, y0, across / side, down / side, (side, side))


def _tiles(options: ModelOptions, pixels: int, least: int, most: int) -> tuple[int, int]:
    """The bounds of tiles, the thumbnail left out.

    Args:
        options: bounds of pixels that come first.
        pixels: of a tile.
        least, most: the checkpoint's bounds; one that was asked for moves the other.
    """
    if options.max_pixels is not None:
        most = min(options.max_pixels // pixels, MOST_TILES)
        least = min(least, most)
    if options.min_pixels is not None:
        least = -(-options.min_pixels // pixels)
        most = most if options.max_pixels is not None else max(most, least)
    if not 1 <= least <= most <= MOST_TILES:
        raise UserError(
            f"min_pixels and max_pixels must let this model make 1 to {MOST_TILES} tiles of "
            f"{pixels} pixels."
        )
    return least, most
