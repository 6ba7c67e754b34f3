# SPDX-License-Identifier: Apache-2.0
"""Images for the vision graph: the pixel values of the runtime torch, by the same code."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from svd_vlm_ros.models.images import ProcessedImage
from svd_vlm_ros.models.llava.preprocess import ImageSettings, pixel_values
from svd_vlm_ros.onnx_runtime.manifest import Manifest


class ExportImages:
    """See `models.interface.ImageProcessor`."""

    def __init__(self, manifest: Manifest) -> None:
        found = manifest.preprocess
        size, grid = int(found["size"]), manifest.sizes["patches"]
        self._settings = ImageSettings(
            size=size,
            patch=size // int(grid[0]),
            mean=_three(found["mean"]),
            std=_three(found["std"]),
            rescale=float(found["rescale"]),
            resample=int(found["resample"]),
        )
        self.size, self.grid = size, self._settings.grid
        self.tokens = self._settings.tokens
        self.aspects = manifest.aspects

    def __call__(self, image: np.ndarray, aspect: str) -> ProcessedImage:
        """Prepare a checked image; the pixels are an array, float32 [1, 3, H, W]."""
        pixels, framing = pixel_values(image, self._settings, aspect)
        return ProcessedImage(cast(Any, pixels), framing)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
