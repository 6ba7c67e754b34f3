# SPDX-License-Identifier: Apache-2.0
"""Images for Qwen's encoders: resized to multiples of a four's side, cut into patches.

The pixel values come from transformers' own processor (its Pillow backend).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.images import TYPICAL, Framing, ProcessedImage
from svd_vlm_ros.models.interface import ModelOptions

if TYPE_CHECKING:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

MOST_FOURS = 16_384  # of an image, in the published settings


@dataclass(frozen=True, eq=False)
class QwenImages:
    """See `interface.ImageProcessor`; `processor` is transformers' own."""

    processor: Qwen2VLImageProcessorPil
    size = TYPICAL[1]
    grid = None
    aspects = ("pad",)  # the whole image; nothing is padded

    @classmethod
    def make(
        cls, folder: Path | None, options: ModelOptions, random: Mapping[str, Any]
    ) -> QwenImages:
        """Read a checkpoint's settings.

        Args:
            folder: of the checkpoint; None: take `random`, the settings of a random model.
            options: bounds of pixels that come before the checkpoint's. Both sides of an image are
                rounded to whole fours, and none gets shorter than one: bounds close together, and
                those of a few fours for a long image, are met by a row or a column more or less.
            random: what the processor's class takes.

        Raises:
            UserError: no image fits into the bounds, or none that fits could be read.
        """
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil as Processor,
        )

        processor = (
            Processor(**random)
            if folder is None
            else Processor.from_pretrained(folder, local_files_only=True)
        )
        least, most = processor.size["shortest_edge"], processor.size["longest_edge"]
        # A bound that was asked for moves the other one, if that was not.
        least = options.min_pixels or min(least, options.max_pixels or least)
        most = options.max_pixels or max(most, least)
        four = (processor.patch_size * processor.merge_size) ** 2
        if most < four:
            raise UserError(f"max_pixels must be {four} or more for this model, not {most}.")
        if least > MOST_FOURS * four:
            raise UserError(
                f"min_pixels must be {MOST_FOURS * four} or less for this model, not {least}."
            )
        processor.size = {"shortest_edge": least, "longest_edge": most}
        return cls(processor)

    @property
    def tokens(self) -> int:
        """Visual tokens of an image of 640 x 480 pixels."""
        patches = int(self.processor.get_number_of_image_patches(*TYPICAL, {}))
        return patches // self.processor.merge_size**2

    def __call__(self, image: np.ndarray, aspect: str) -> ProcessedImage:
        """Pixel values float32 [patches, numbers of a patch], fours behind each other."""
        # Left to guess, it takes the rows of an image of 1, 3 or 4 for its colours.
        made = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")
        _, down, across = (int(n) for n in made["image_grid_thw"][0])
        rows, columns = down // self.processor.merge_size, across // self.processor.merge_size
        height, width = image.shape[:2]
        framing = Framing(height, width, 0.0, 0.0, width / columns, height / rows, (rows, columns))
        return ProcessedImage(made["pixel_values"], framing)
