# SPDX-License-Identifier: Apache-2.0
"""Images on their way into a vision encoder, and the way back from patches to boxes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.views import TYPICAL as TYPICAL

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_SIDES = 50  # an image whose sides differ by more has nothing left to see when it is resized

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the source image, x1 and y1 exclusive."""


@dataclass(frozen=True)
class Framing:
    """Where what the encoder sees lies in the source image. Lengths in source pixels.

    Attributes:
        height, width: of the source image.
        x0, y0: the left upper corner; negative if it reaches into padding.
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

    @property
    def patches(self) -> int:
        """How many there are, those of padding among them."""
        return self.grid[0] * self.grid[1]

    def patch_box(self, index: int) -> Box:
        """What a patch shows of the source image; empty (x0 == x1 or y0 == y1) for padding."""
        rows, columns = self.grid
        if not 0 <= index < rows * columns:
            raise IndexError(f"there is no patch {index} in a grid of {rows} x {columns}")
        row, column = divmod(index, columns)
        left, right = self._columns(column)
        top, bottom = self._rows(row)
        return left, top, right, bottom

    def seen(self) -> np.ndarray | None:
        """Which patches show some of the image: bool [N] in raster order; None: all do."""
        rows, columns = self.grid
        across = _seen(map(self._columns, range(columns)))
        down = _seen(map(self._rows, range(rows)))
        seen = (down[:, None] & across[None, :]).reshape(-1)
        return None if bool(seen.all()) else seen

    def valid(self) -> Tensor | None:
        """`seen` as a tensor."""
        return _tensor(self.seen())

    def _columns(self, column: int) -> tuple[float, float]:
        return _clip(self.x0 + column * self.patch_width, self.patch_width, self.width)

    def _rows(self, row: int) -> tuple[float, float]:
        return _clip(self.y0 + row * self.patch_height, self.patch_height, self.height)


@dataclass(frozen=True)
class TiledFraming:
    """Where several grids of patches lie in one source image: its tiles, and perhaps a thumbnail.

    Attributes:
        tiles: of one image, in the order of their patches.
        thumbnail: which of them shows the whole image; None: none does.
    """

    tiles: tuple[Framing, ...]
    thumbnail: int | None = None

    @property
    def height(self) -> int:
        """Of the source image."""
        return self.tiles[0].height

    @property
    def width(self) -> int:
        """Of the source image."""
        return self.tiles[0].width

    @property
    def grid(self) -> None:
        """The patches form no one grid."""
        return

    @property
    def patches(self) -> int:
        """How many there are in all tiles."""
        return sum(tile.patches for tile in self.tiles)

    def patch_box(self, index: int) -> Box:
        """See `Framing.patch_box`; the index counts through all tiles."""
        left = index
        for tile in self.tiles:
            if 0 <= left < tile.patches:
                return tile.patch_box(left)
            left -= tile.patches
        raise IndexError(f"there is no patch {index} in {len(self.tiles)} tiles")

    def seen(self) -> np.ndarray | None:
        """See `Framing.seen`: bool [N] of all tiles."""
        each = [tile.seen() for tile in self.tiles]
        if all(seen is None for seen in each):
            return None
        return np.concatenate(
            [
                np.ones(tile.patches, dtype=bool) if seen is None else seen
                for seen, tile in zip(each, self.tiles, strict=True)
            ]
        )

    def valid(self) -> Tensor | None:
        """`seen` as a tensor."""
        return _tensor(self.seen())


@dataclass(frozen=True, eq=False)
class ProcessedImage:
    """An image as the encoder takes it.

    Attributes:
        pixels: float32 on the CPU, normalised, in the shape that the family's encoder takes.
        framing: the way back to the source image.
    """

    pixels: Tensor
    framing: Framing | TiledFraming


def check_image(image: object) -> np.ndarray:
    """Return an image as it came. Raises `UserError` unless it is uint8 [H, W, 3], not empty."""
    if not isinstance(image, np.ndarray):
        raise UserError(f"An image must be a NumPy array, not {type(image).__name__}.")
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"An image must have the shape [height, width, 3], not {image.shape}.")
    if image.dtype != np.uint8:
        raise UserError(f"An image must have the type uint8, not {image.dtype}.")
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        raise UserError(f"The image is empty: {width} x {height} pixels.")
    if max(height, width) > LONGEST_SIDES * min(height, width):
        raise UserError(f"An image of {width} x {height} pixels is too long and thin to be seen.")
    return image


def _clip(start: float, length: float, limit: int) -> tuple[float, float]:
    return min(max(start, 0.0), limit), min(max(start + length, 0.0), limit)


def _seen(spans: Iterable[tuple[float, float]]) -> np.ndarray:
    """Which spans hold some of the image: a sliver that is there by rounding alone does not."""
    return np.array([end - start > 1e-6 for start, end in spans], dtype=bool)


def _tensor(seen: np.ndarray | None) -> Tensor | None:
    import torch  # only here: framings are known where there is none

    return None if seen is None else torch.from_numpy(seen)
