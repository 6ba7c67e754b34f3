# SPDX-License-Identifier: Apache-2.0
"""From a camera's picture to the pixel values of the vision tower, and back from patches to boxes.

Both framings give the pixel values of transformers' own `LlavaImageProcessor` (its Pillow backend),
bit for bit: `crop` as it does by default, `pad` as it does with `do_pad=True`, which is what the
authors of LLaVA do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import read_json

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig

ASPECTS = ("pad", "crop")
LONGEST_SIDES = 50  # a picture whose sides differ by more has nothing left to see when it is square

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the source picture, x1 and y1 exclusive."""


@dataclass(frozen=True)
class PictureSettings:
    """What a model's processor files say about pictures.

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
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size // self.patch, self.size // self.patch

    @classmethod
    def from_folder(cls, folder: Path, vision: CLIPVisionConfig) -> PictureSettings:
        """Read a model's processor files. Raises `UserError` where they do not fit its tower."""
        found: dict[str, Any] = {}
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).is_file():
                content = read_json(folder / name)
                found |= content.get("image_processor", content)
        if "image_mean" not in found or "image_std" not in found:
            raise UserError(f"The picture settings in {folder} are missing: fetch the model again.")
        if not isinstance(vision.image_size, int) or not isinstance(vision.patch_size, int):
            raise UserError(f"The model in {folder} looks at pictures that are not square.")
        for key in ("crop_size", "size"):
            sides = found.get(key, vision.image_size)
            sides = set(sides.values()) if isinstance(sides, dict) else {sides}
            if sides != {vision.image_size}:
                raise UserError(
                    f"The processor in {folder} makes pictures of {sorted(sides)} pixels, its "
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


@dataclass(frozen=True)
class Framing:
    """Where the tower's square lies in the source picture. Lengths in source pixels.

    Attributes:
        height, width: of the source picture.
        x0, y0: the left upper corner of the square; negative where it reaches into padding.
        patch_width, patch_height: what one patch covers.
        grid: rows and columns of patches.
    """

    height: int
    width: int
    x0: float
    y0: float
    patch_width: float
    patch_height: float
    grid: tuple[int, int]

    def patch_box(self, index: int) -> Box:
        """What a patch shows of the source picture; empty (x0 == x1 or y0 == y1) for padding."""
        rows, columns = self.grid
        if not 0 <= index < rows * columns:
            raise IndexError(f"there is no patch {index} in a grid of {rows} x {columns}")
        row, column = divmod(index, columns)
        left, right = self._columns(column)
        top, bottom = self._rows(row)
        return left, top, right, bottom

    def valid(self) -> Tensor | None:
        """Which patches show some of the picture: bool [N] in raster order; None: all do."""
        rows, columns = self.grid
        # A sliver that is only there because of rounding is not a part of the picture.
        across = torch.tensor([b - a > 1e-6 for a, b in map(self._columns, range(columns))])
        down = torch.tensor([b - a > 1e-6 for a, b in map(self._rows, range(rows))])
        valid = (down[:, None] & across[None, :]).flatten()
        return None if bool(valid.all()) else valid

    def _columns(self, column: int) -> tuple[float, float]:
        return _clip(self.x0 + column * self.patch_width, self.patch_width, self.width)

    def _rows(self, row: int) -> tuple[float, float]:
        return _clip(self.y0 + row * self.patch_height, self.patch_height, self.height)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the tower takes it.

    Attributes:
        pixels: float32 [1, 3, size, size] on the CPU, normalised.
        framing: the way back to the source picture.
    """

    pixels: Tensor
    framing: Framing


def check_image(image: object) -> np.ndarray:
    """Return a picture as it came. Raises `UserError` unless it is uint8 [H, W, 3], not empty."""
    if not isinstance(image, np.ndarray):
        raise UserError(f"A picture must be a NumPy array, not {type(image).__name__}.")
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"A picture must have the shape [height, width, 3], not {image.shape}.")
    if image.dtype != np.uint8:
        raise UserError(f"A picture must have the type uint8, not {image.dtype}.")
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        raise UserError(f"The picture is empty: {width} x {height} pixels.")
    if max(height, width) > LONGEST_SIDES * min(height, width):
        raise UserError(f"A picture of {width} x {height} pixels is too long and thin to be seen.")
    return image


def preprocess(image: np.ndarray, settings: PictureSettings, aspect: str) -> Picture:
    """Turn a picture into the tower's pixel values.

    Args:
        image: uint8 [H, W, 3], RGB; see `check_image`. It is not changed.
        settings: of the model.
        aspect: "pad": the whole picture, centred on a square of the processor's mean colour (a
            camera keeps its left and right). "crop": the short side fills the square, the ends of
            the long side are cut off (a 16:9 camera loses 44 % of its picture).
    """
    if aspect == "pad":
        square, framing = _pad(image, settings)
    else:
        square, framing = _crop(image, settings)
    # As the processor does it: to 0..1 in float64, then float32 arithmetic.
    scaled = (square.astype(np.float64) * settings.rescale).astype(np.float32)
    values = (scaled - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]
    return Picture(pixels, framing)


def _pad(image: np.ndarray, settings: PictureSettings) -> tuple[np.ndarray, Framing]:
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


def _crop(image: np.ndarray, settings: PictureSettings) -> tuple[np.ndarray, Framing]:
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
    """Resize with Pillow, whose filters widen when they make a picture smaller."""
    return source.resize((width, height), resample=Image.Resampling(resample))


def _clip(start: float, length: float, limit: int) -> tuple[float, float]:
    return min(max(start, 0.0), limit), min(max(start + length, 0.0), limit)
