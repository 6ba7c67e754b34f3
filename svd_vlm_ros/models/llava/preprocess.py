# SPDX-License-Identifier: Apache-2.0
"""From a camera's image to the pixel values of the vision tower, and back from patches to boxes.

Both framings give the pixel values of transformers' own `LlavaImageProcessor` (its Pillow backend),
bit for bit: `crop` as it does by default, `pad` as it does with `do_pad=True`, which is what the
authors of LLaVA do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import read_json
from svd_vlm_ros.models.images import Framing, ProcessedImage

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig

ASPECTS = ("pad", "crop")


@dataclass(frozen=True)
class ImageSettings:
    """What a model's processor files say about images.

    Attributes:
        size: side of the square that the tower sees, in pixels.
        patch: side of a patch, in pixels of that square.
        mean, std: of the channels R, G, B, for values from 0 to 1.
        rescale: the factor from uint8 to values from 0 to 1.
        resample: Pillow's number of the resampling filter (3: bicubic).
    """

    size: int
    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float
    resample: int

    @property
    def aspects(self) -> tuple[str, ...]:
        """The ways in which an image of another shape becomes a square."""
        return ASPECTS

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size // self.patch, self.size // self.patch

    @property
    def tokens(self) -> int:
        """Visual tokens of an image."""
        return self.grid[0] * self.grid[1]

    def __call__(self, image: np.ndarray, aspect: str) -> ProcessedImage:
        """`preprocess` with these settings."""
        return preprocess(image, self, aspect)

    @classmethod
    def from_folder(cls, folder: Path, vision: CLIPVisionConfig) -> ImageSettings:
        """Read a model's processor files. Raises `UserError` if they do not fit its tower."""
        found: dict[str, Any] = {}
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).is_file():
                content = read_json(folder / name)
                found |= content.get("image_processor", content)
        if "image_mean" not in found or "image_std" not in found:
            raise UserError(f"The image settings in {folder} are missing: fetch the model again.")
        if not isinstance(vision.image_size, int) or not isinstance(vision.patch_size, int):
            raise UserError(f"The model in {folder} looks at images that are not square.")
        for key in ("crop_size", "size"):
            sides = found.get(key, vision.image_size)
            sides = set(sides.values()) if isinstance(sides, dict) else {sides}
            if sides != {vision.image_size}:
                raise UserError(
                    f"The processor in {folder} makes images of {sorted(sides)} pixels, its "
                    f"tower wants {vision.image_size}: the files do not belong together."
                )
        return cls(
            size=vision.image_size,
            patch=vision.patch_size,
            mean=tuple(found["image_mean"]),
            std=tuple(found["image_std"]),
            rescale=float(found.get("rescale_factor", 1 / 255)),
            resample=int(found.get("resample", Image.Resampling.BICUBIC)),
        )


def preprocess(image: np.ndarray, settings: ImageSettings, aspect: str) -> ProcessedImage:
    """`pixel_values` as a tensor."""
    import torch  # only here: the runtime onnx prepares images by this module, and has none

    pixels, framing = pixel_values(image, settings, aspect)
    return ProcessedImage(torch.from_numpy(pixels), framing)


def pixel_values(
    image: np.ndarray, settings: ImageSettings, aspect: str
) -> tuple[np.ndarray, Framing]:
    """Turn an image into the tower's pixel values.

    Args:
        image: uint8 [H, W, 3], RGB; see `check_image`. It is not changed.
        settings: of the model.
        aspect: "pad": the whole image, centred on a square of the processor's mean colour (a
            camera keeps its left and right). "crop": the short side fills the square, the ends of
            the long side are cut off (a 16:9 camera loses 44 % of its image).

    Returns:
        float32 [1, 3, H, W], normalised, and the way back to the source image.
    """
    if aspect == "pad":
        square, framing = _pad(image, settings)
    else:
        square, framing = _crop(image, settings)
    # As the processor does it: to 0..1 in float64, then float32 arithmetic.
    scaled = (square.astype(np.float64) * settings.rescale).astype(np.float32)
    values = (scaled - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))[None], framing


def _pad(image: np.ndarray, settings: ImageSettings) -> tuple[np.ndarray, Framing]:
    height, width = image.shape[:2]
    size, side = settings.size, max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    red, green, blue = (int(channel * 255) for channel in settings.mean)
    source = Image.fromarray(image)
    if width > height:
        # Pillow resizes across first and down then. Rows of padding stay what they are when they
        # are resized across, so the result is the same without them, at half of the work.
        source = _resize(source, height, size, settings.resample)
    if height != width:
        across = size if width > height else side
        square = Image.new("RGB", (across, side), (red, green, blue))
        square.paste(source, (left, top))
        source = square
    patch = side / size * settings.patch
    framing = Framing(height, width, -left, -top, patch, patch, settings.grid)
    return np.asarray(_resize(source, size, size, settings.resample)), framing


def _crop(image: np.ndarray, settings: ImageSettings) -> tuple[np.ndarray, Framing]:
    height, width = image.shape[:2]
    size, short = settings.size, min(height, width)
    resized_height, resized_width = int(size * height / short), int(size * width / short)
    resized = _resize(Image.fromarray(image), resized_height, resized_width, settings.resample)
    top, left = (resized_height - size) // 2, (resized_width - size) // 2
    down, across = height / resized_height, width / resized_width
    framing = Framing(
        height=height,
        width=width,
        x0=left * across,
        y0=top * down,
        patch_width=settings.patch * across,
        patch_height=settings.patch * down,
        grid=settings.grid,
    )
    return np.asarray(resized)[top : top + size, left : left + size], framing


def _resize(source: Image.Image, height: int, width: int, resample: int) -> Image.Image:
    """Resize with Pillow, whose filters widen when they make an image smaller."""
    return source.resize((width, height), resample=Image.Resampling(resample))
