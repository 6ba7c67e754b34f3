# SPDX-License-Identifier: Apache-2.0
"""Images as a thumbnail and tiles, by transformers' own processors (their Pillow backend)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.images import TYPICAL, ProcessedImage
from svd_vlm_ros.models.llava_next.anyres import Anyres, frame


@dataclass(frozen=True, eq=False)
class AnyresImages:
    """See `interface.ImageProcessor`; `processor` is transformers' own."""

    processor: Any
    anyres: Anyres
    grid = None
    aspects = ("pad",)  # the whole image; the large grid's padding is taken off again

    @classmethod
    def make(cls, processor: Any, anyres: Anyres) -> AnyresImages:
        """Take a processor with its settings.

        Raises:
            UserError: it does not cut the tiles that the model takes.
        """
        crop, size = processor.crop_size or {}, processor.size
        tile = crop.get("height") or size.get("height") or size.get("shortest_edge")
        if tile != anyres.tile:
            raise UserError(
                f"The image processor cuts tiles of {tile} pixels, its model takes {anyres.tile}: "
                "the files do not belong together."
            )
        processor.image_grid_pinpoints = [list(shape) for shape in anyres.shapes]
        return cls(processor, anyres)

    @property
    def size(self) -> int:
        """The longer side of what an image of 640 x 480 pixels is resized to."""
        return max(frame(self.anyres, *TYPICAL).packing.tiles) * self.anyres.tile

    @property
    def tokens(self) -> int:
        """Visual tokens of an image of 640 x 480 pixels, newlines left out."""
        grids = [tile.grid for tile in frame(self.anyres, *TYPICAL).tiles]
        return sum(rows * columns for rows, columns in grids)

    def __call__(self, image: np.ndarray, aspect: str) -> ProcessedImage:
        """Pixel values float32 [1 + tiles, 3, side, side], the thumbnail first."""
        # Said, since an image of 1 or 3 rows would be taken for one whose channels come first.
        made = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")
        return ProcessedImage(made["pixel_values"][0], frame(self.anyres, *image.shape[:2]))
