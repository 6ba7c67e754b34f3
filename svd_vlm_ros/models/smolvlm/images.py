# SPDX-License-Identifier: Apache-2.0
"""Images for SmolVLM's encoder: enlarged to a multiple of a tile's side, and cut into tiles.

The pixel values come from transformers' own processor (its Pillow backend). All tiles of an image
are of one size, so that none of them is padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, isqrt, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.images import TYPICAL, Framing, ProcessedImage, TiledFraming
from svd_vlm_ros.models.interface import ModelOptions
from svd_vlm_ros.models.loading import refuse_pixels


@dataclass(frozen=True, eq=False)
class TiledImages:
    """See `interface.ImageProcessor`.

    Attributes:
        processor: transformers' own.
        side: of a tile, in pixels.
        block: pixels of that side that one visual token stands for.
    """

    processor: Any
    side: int
    block: int
    grid = None
    aspects = ("pad",)  # the whole image, stretched a little; nothing is padded

    @classmethod
    def make(
        cls, processor_class: Any, folder: Path | None, config: Any, options: ModelOptions
    ) -> TiledImages:
        """Read a checkpoint's settings.

        Args:
            processor_class: of transformers.
            folder: of the checkpoint; None: a random model, whose images are 4 tiles long.
            config: of the model.
            options: bounds of pixels; see the room's docstring.

        Raises:
            UserError: the settings do not go together, or a bound can't be held.
        """
        vision = config.vision_config
        if folder is None:
            side = vision.image_size
            sizes = {"size": {"longest_edge": 4 * side}, "max_image_size": {"longest_edge": side}}
            processor = processor_class(**sizes)
        else:
            processor = processor_class.from_pretrained(folder, local_files_only=True)
            side = int(processor.max_image_size["longest_edge"])
        patches = side // vision.patch_size
        if patches < 1 or patches % config.scale_factor:
            raise UserError(
                f"A tile of {side} pixels has {patches} x {patches} patches, which can't be joined "
                f"by {config.scale_factor} x {config.scale_factor}: is config.json whole?"
            )
        if processor.do_resize and processor.do_image_splitting:
            _bound(processor, side, options)
        else:
            refuse_pixels("This checkpoint", options)
        return cls(processor, side, config.scale_factor * vision.patch_size)

    @property
    def size(self) -> int:
        """The longer side of an image when it is cut, in pixels."""
        cut = self.processor.do_resize and self.processor.do_image_splitting
        return int(self.processor.size["longest_edge"]) if cut else self.side

    @cached_property
    def tokens(self) -> int:
        """Visual tokens of an image of 640 x 480 pixels."""
        tiles = len(self(np.zeros((*TYPICAL, 3), np.uint8), "pad").pixels)
        return int(tiles * (self.side // self.block) ** 2)

    def __call__(self, image: np.ndarray, aspect: str) -> ProcessedImage:
        """Pixel values float32 [tiles, 3, side, side], the tile of the whole image last."""
        made = self.processor(
            images=image,
            input_data_format="channels_last",  # else an image of 3 rows is turned on its side
            return_row_col_info=True,
            do_pad=False,  # there is nothing to pad
            return_tensors="pt",
        )
        rows, columns = int(made["rows"][0][0]), int(made["cols"][0][0])
        height, width = image.shape[:2]
        tiles = [
            self._tile(height, width, row, rows, column, columns)
            for row in range(rows)
            for column in range(columns)
        ]
        whole = self._tile(height, width, 0, 1, 0, 1)
        framing = TiledFraming((*tiles, whole), len(tiles)) if tiles else whole
        return ProcessedImage(made["pixel_values"][0], framing)

    def _tile(
        self, height: int, width: int, row: int, rows: int, column: int, columns: int
    ) -> Framing:
        """One of rows x columns tiles. Right and lower edges that fill no patch are not seen."""
        down, across, seen = height / rows, width / columns, self.block / self.side
        count = self.side // self.block
        return Framing(
            height, width, column * across, row * down, across * seen, down * seen, (count, count)
        )


def _bound(processor: Any, side: int, options: ModelOptions) -> None:
    """Set the longer side of images, in tiles, by the bounds that were asked for."""
    longest = processor.size["longest_edge"]
    if options.min_pixels is not None:
        longest = max(longest, ceil(sqrt(options.min_pixels) / side) * side)
    if options.max_pixels is not None:
        longest = min(longest, isqrt(options.max_pixels) // side * side)
    if longest < 1:
        raise UserError(
            f"max_pixels must be {side**2} or more for this model, not {options.max_pixels}."
        )
    processor.size = {"longest_edge": longest}
