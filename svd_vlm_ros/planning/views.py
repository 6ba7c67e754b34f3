# SPDX-License-Identifier: Apache-2.0
"""What an image becomes, by its size alone: patches for the vision tower, and visual tokens.

Each rule is the arithmetic of one kind of image processor, with the settings that checkpoints are
published with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from svd_vlm_ros.errors import UserError

Size = tuple[int, int]
"""Height and width of an image in pixels."""

TYPICAL: Size = (480, 640)  # of the image that is counted if none is at hand
LONGEST = 200  # times as long as wide: what Qwen's processors take


@dataclass(frozen=True)
class View:
    """What one image is to a model.

    Attributes:
        patches: that the tower encodes, those of all tiles and of the thumbnail.
        tokens: visual tokens that stand for a part of the image: what a selector chooses from.
        tiles: parts that the tower encodes apart from each other, the thumbnail among them.
        newlines: tokens that end the rows of patches in the prompt.
    """

    patches: int
    tokens: int
    tiles: int = 1
    newlines: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Tokens that stand for the whole image in the prompt of the stock model."""
        return self.tokens + self.newlines

    def read(self, kept: int) -> int:
        """Tokens of the image in the prompt if `kept` are kept; a newline stays with its row."""
        return kept + min(kept, self.newlines)


class Views(Protocol):
    """How a family views an image."""

    def __call__(self, size: Size) -> View:
        """The view of an image of some size. Raises `UserError` if the family can't take it."""
        ...


@dataclass(frozen=True)
class Fixed:
    """One size for every image (LLaVA-1.5, Gemma 3).

    Attributes:
        patches: of an image.
        tokens: that they become; None: each patch is one.
    """

    patches: int
    tokens: int | None = None

    def __call__(self, size: Size) -> View:
        """See `Views`."""
        return View(self.patches, self.patches if self.tokens is None else self.tokens)


@dataclass(frozen=True)
class Dynamic:
    """The image in its own resolution, rounded to whole tokens (Qwen).

    Attributes:
        patch: side of a patch in pixels.
        merge: patches each way that make one token.
        least, most: bounds of the image's pixels, by which it is enlarged and reduced.
    """

    patch: int
    merge: int
    least: int
    most: int

    def __call__(self, size: Size) -> View:
        """See `Views`."""
        if max(size) > LONGEST * min(size):
            raise UserError(
                f"An image of {size[1]}x{size[0]} is too long for this model: {LONGEST} times as "
                "long as wide is the most."
            )
        unit = self.patch * self.merge
        pixels = size[0] * size[1]
        rows, columns = (round(length / unit) for length in size)
        if rows * columns * unit**2 > self.most:
            scale = math.sqrt(pixels / self.most)
            rows, columns = (max(1, math.floor(length / scale / unit)) for length in size)
        elif rows * columns * unit**2 < self.least:
            scale = math.sqrt(self.least / pixels)
            rows, columns = (math.ceil(length * scale / unit) for length in size)
        return View(rows * columns * self.merge**2, rows * columns)


@dataclass(frozen=True)
class AnyResolution:
    """A thumbnail, and a canvas of tiles whose padding is cut off (LLaVA-NeXT, OneVision).

    Attributes:
        canvases: heights and widths in pixels that the image is fitted into.
        tile: side of a tile in pixels.
        side: patches along it.
        most: tiles above whose number of patches the canvas is shrunk; 0: it never is.
    """

    canvases: tuple[Size, ...]
    tile: int
    side: int
    most: int = 0

    def __call__(self, size: Size) -> View:
        """See `Views`."""
        height, width = size
        canvas = min(self.canvases, key=lambda canvas: _waste(size, canvas))
        tiles = (canvas[0] // self.tile) * (canvas[1] // self.tile)
        rows, columns = (self.side * (length // self.tile) for length in canvas)
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        if self.most:
            ratio = math.sqrt(rows * columns / (self.most * self.side**2))
            if ratio > 1.1:
                rows, columns = int(rows // ratio), int(columns // ratio)
        return View((1 + tiles) * self.side**2, self.side**2 + rows * columns, 1 + tiles, rows)


def _waste(size: Size, canvas: Size) -> tuple[int, int]:
    """How badly an image fits: pixels that are lost (negative: kept), then pixels left empty."""
    scale = min(canvas[1] / size[1], canvas[0] / size[0])
    kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
    return -kept, canvas[0] * canvas[1] - kept


@dataclass(frozen=True)
class EnlargedTiles:
    """The image enlarged until its longer side fills so many tiles, and a thumbnail (SmolVLM).

    Attributes:
        tile: side of a tile in pixels.
        along: tiles that the longer side fills.
        side: patches along a tile.
        merge: patches each way that make one token.
    """

    tile: int
    along: int
    side: int
    merge: int

    def __call__(self, size: Size) -> View:
        """See `Views`."""
        ratio, longest = size[1] / size[0], self.along * self.tile
        shorter = int(longest / ratio if ratio >= 1 else longest * ratio)
        across = max(1, math.ceil((shorter + shorter % 2) / self.tile))
        return _tiled(self.along * across + 1, self.side, self.merge)


@dataclass(frozen=True)
class FittedTiles:
    """The grid of tiles that is nearest to the image's shape, and a thumbnail (InternVL).

    Attributes:
        tile: side of a tile in pixels.
        side: patches along it.
        merge: patches each way that make one token.
        most: tiles, the thumbnail left out.
    """

    tile: int
    side: int
    merge: int
    most: int

    def __call__(self, size: Size) -> View:
        """See `Views`."""
        tiles = math.prod(self._grid(size))
        return _tiled(tiles + 1 if tiles > 1 else 1, self.side, self.merge)

    def _grid(self, size: Size) -> tuple[int, int]:
        """Columns and rows. Of equally near grids the larger, up to twice the image's pixels."""
        ratio, pixels = size[1] / size[0], size[0] * size[1]
        best, nearest = (1, 1), math.inf
        for columns, rows in self._grids():
            distance = abs(ratio - columns / rows)
            if distance < nearest:
                best, nearest = (columns, rows), distance
            elif distance == nearest and pixels > 0.5 * self.tile**2 * columns * rows:
                best = (columns, rows)
        return best

    def _grids(self) -> Iterator[tuple[int, int]]:
        for tiles in range(1, self.most + 1):
            for columns in range(1, tiles + 1):
                if tiles % columns == 0:
                    yield columns, tiles // columns


def _tiled(tiles: int, side: int, merge: int) -> View:
    return View(tiles * side**2, tiles * (side // merge) ** 2, tiles)
