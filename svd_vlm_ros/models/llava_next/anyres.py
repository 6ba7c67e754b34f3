# SPDX-License-Identifier: Apache-2.0
"""Any resolution from tiles of one size: what LLaVA-NeXT and LLaVA-OneVision share.

An image is seen twice: as a thumbnail, squeezed into one tile, and resized and padded to the one of
several shapes that loses least, which is cut into tiles. The tiles' patches are put together to one
large grid, of which the padding is taken off again; OneVision shrinks what is left if it is very
large. The thumbnail's patches come first, then the large grid's, row by row.

All of that follows from the height and width of an image: it is worked out once for a shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, floor, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.images import Framing, TiledFraming
from svd_vlm_ros.models.interface import ModelOptions

Shape = tuple[int, int]
"""Height and width, or rows and columns."""

SHRINKS_ABOVE = 1.1  # as the models do


@dataclass(frozen=True, eq=False)
class Packing:
    """How the patches of tiles become those of an image.

    Attributes:
        side: patches along a tile's side.
        tiles: how many tiles stand above each other and side by side, the thumbnail left out.
        order: int64 [n], the patches of the large grid without its padding, row by row, counted
            through the tiles.
        unpadded: rows and columns of that grid. Of an image so small and thin that rounding leaves
            nothing of it there are 0 rows, or 0 columns and still a newline for each row.
        grid: what it is shrunk to.
    """

    side: int
    tiles: Shape
    order: Tensor
    unpadded: Shape
    grid: Shape

    @property
    def shrinks(self) -> bool:
        """Whether the grid's patches are mixtures of those that the tiles have."""
        return self.grid != self.unpadded

    def pack(self, rows: Tensor) -> Tensor:
        """Rows [1 + tiles, side * side, d] of all patches as those of the image, [N, d]."""
        large = rows[1:].flatten(0, 1)[self.order.to(rows.device)]
        if self.shrinks:
            planes = large.T.contiguous().view(1, -1, *self.unpadded)
            planes = nn.functional.interpolate(planes, self.grid, mode="bilinear")
            large = planes[0].flatten(1).T
        return torch.cat([rows[0], large])


@dataclass(frozen=True)
class TileGrid(Framing):
    """The large grid in the source image. Its patches need not lie side by side: a tile whose size
    is no multiple of a patch's ends in a strip that no patch covers.

    Attributes:
        side: patches along a tile's side.
        tile_width, tile_height: of a tile, in source pixels.
        first: row and column of the grid's first patch, counted from the first tile's, whose upper
            left corner is at (x0, y0).
        step: rows and columns of the tiles' patches that one of the grid's stands for.
    """

    side: int
    tile_width: float
    tile_height: float
    first: Shape
    step: tuple[float, float]

    def _columns(self, column: int) -> tuple[float, float]:
        edges = self.first[1] + column * self.step[1], self.first[1] + (column + 1) * self.step[1]
        return self._clipped(edges, self.x0, self.tile_width, self.patch_width, self.width)

    def _rows(self, row: int) -> tuple[float, float]:
        edges = self.first[0] + row * self.step[0], self.first[0] + (row + 1) * self.step[0]
        return self._clipped(edges, self.y0, self.tile_height, self.patch_height, self.height)

    def _clipped(
        self, edges: tuple[float, float], corner: float, tile: float, patch: float, limit: int
    ) -> tuple[float, float]:
        """From patches counted through the tiles to source pixels inside the image."""
        ahead = floor(edges[0] / self.side), ceil(edges[1] / self.side) - 1  # tiles, of either edge
        start, end = (
            min(max(corner + tiles * tile + (edge - tiles * self.side) * patch, 0.0), float(limit))
            for edge, tiles in zip(edges, ahead, strict=True)
        )
        return start, end


@dataclass(frozen=True)
class PackedFraming(TiledFraming):
    """Thumbnail and large grid in the source image, and how the latter is made."""

    packing: Packing = field(kw_only=True)


@dataclass(frozen=True)
class Anyres:
    """What a model says about its tiles.

    Attributes:
        tile: height and width of a tile, in pixels.
        patch: of a patch.
        shapes: heights and widths that images may be resized to, in pixels.
        most_tiles: a grid of more than about so many tiles is shrunk to so many; None: never.
    """

    tile: int
    patch: int
    shapes: tuple[Shape, ...]
    most_tiles: int | None = None

    @classmethod
    def of(cls, config: Any, options: ModelOptions) -> Anyres:
        """As a configuration says, among the shapes within the bounds of pixels.

        Raises:
            UserError: there is no shape within the bounds.
        """
        vision = config.vision_config
        shapes = [(int(height), int(width)) for height, width in config.image_grid_pinpoints]
        areas = sorted(height * width for height, width in shapes)
        least, most = options.min_pixels or 0, options.max_pixels or areas[-1]
        within = tuple(shape for shape in shapes if least <= shape[0] * shape[1] <= most)
        if not within:
            raise UserError(
                f"This model makes images of {areas[0]} to {areas[-1]} pixels, none of {least} to "
                f"{most}: set min_pixels and max_pixels accordingly."
            )
        limit = getattr(config, "vision_aspect_ratio", None)
        tiles = None if limit is None else int(limit.removeprefix("anyres_max_"))
        return cls(vision.image_size, vision.patch_size, within, tiles)


@lru_cache(maxsize=8)  # a robot has a few cameras, whose images keep their shapes
def frame(anyres: Anyres, height: int, width: int) -> PackedFraming:
    """Where the patches of an image of a height and a width, in pixels, lie in it."""
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    tile, side = anyres.tile, anyres.tile // anyres.patch
    shape = select_best_resolution((height, width), list(anyres.shapes))
    down, across = shape[0] // tile, shape[1] // tile
    places = torch.arange(down * across * side * side)
    large = places.view(down, across, side, side).transpose(1, 2).flatten(2).flatten(0, 1)
    order = unpad_image(large[None], (height, width))[0]
    rows, columns = order.shape
    grid = _shrunk((rows, columns), side, anyres.most_tiles)
    packing = Packing(side, (down, across), order.flatten(), (rows, columns), grid)

    part = anyres.patch / tile  # of a tile's side
    whole = Framing(height, width, 0.0, 0.0, width * part, height * part, (side, side))
    scale = min(shape[0] / height, shape[1] / width)
    seen = min(ceil(height * scale), shape[0]), min(ceil(width * scale), shape[1])
    tall, wide = height / seen[0], width / seen[1]  # source pixels that a pixel stands for
    tiled = TileGrid(
        height,
        width,
        x0=-((shape[1] - seen[1]) // 2) * wide,
        y0=-((shape[0] - seen[0]) // 2) * tall,
        patch_width=anyres.patch * wide,
        patch_height=anyres.patch * tall,
        grid=grid,
        side=side,
        tile_width=tile * wide,
        tile_height=tile * tall,
        first=((down * side - rows) // 2, (across * side - columns) // 2),
        step=(rows / max(grid[0], 1), columns / max(grid[1], 1)),
    )
    return PackedFraming((whole, tiled), 0 if len(packing.order) else None, packing=packing)


def _shrunk(grid: Shape, side: int, most_tiles: int | None) -> Shape:
    """Rows and columns that a model shrinks a grid to."""
    if most_tiles is None:
        return grid
    ratio = sqrt(grid[0] * grid[1] / (most_tiles * side**2))
    return (int(grid[0] // ratio), int(grid[1] // ratio)) if ratio > SHRINKS_ABOVE else grid
