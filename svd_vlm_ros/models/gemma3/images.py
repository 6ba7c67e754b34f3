# SPDX-License-Identifier: Apache-2.0
"""Images for Gemma 3: the whole image, resized to one square.

The pixel values come from transformers' own processor (its Pillow backend).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.images import Framing, ProcessedImage

if TYPE_CHECKING:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil


@dataclass(frozen=True, eq=False)
class Gemma3Images:
    """See `interface.ImageProcessor`.

    Attributes:
        processor: transformers' own.
        size: the side of the square, in pixels.
        side: visual tokens along it.
    """

    processor: Gemma3ImageProcessorPil
    size: int
    side: int
    aspects = ("pad",)  # the whole image, as wide as high; nothing is padded

    @classmethod
    def make(
        cls, folder: Path | None, random: dict[str, Any], size: int, side: int
    ) -> Gemma3Images:
        """Read a checkpoint's settings.

        Args:
            folder: of the checkpoint; None: take `random`, the settings of a random model.
            random: what the processor's class takes.
            size, side: that the encoder was made for.

        Raises:
            UserError: the settings are for squares of another size.
        """
        from transformers.models.gemma3.image_processing_pil_gemma3 import (
            Gemma3ImageProcessorPil as Processor,
        )

        processor: Any = (
            Processor(**random)
            if folder is None
            else Processor.from_pretrained(folder, local_files_only=True)
        )
        made = processor.size["height"], processor.size["width"]
        if made != (size, size):
            raise UserError(
                f"This model's images are made {made[0]} x {made[1]} pixels large, its encoder "
                f"wants {size} x {size}: the files do not belong together."
            )
        # transformers' own Gemma 3 processor says so whatever the image processor's file says.
        processor.do_pan_and_scan, processor.do_convert_rgb = False, True
        return cls(processor, size, side)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens."""
        return self.side, self.side

    @property
    def tokens(self) -> int:
        """Visual tokens of every image."""
        return self.side**2

    def __call__(self, image: np.ndarray, aspect: str) -> ProcessedImage:
        """Pixel values float32 [1, 3, size, size]."""
        # Else an image that is 1 or 3 pixels high would be taken for one with channels first.
        made = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")
        height, width = image.shape[:2]
        across, down = width / self.side, height / self.side
        framing = Framing(height, width, 0.0, 0.0, across, down, self.grid)
        return ProcessedImage(made["pixel_values"], framing)
