# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL's encoder as transformers runs it, and its merger for the kept fours alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svd_vlm_ros.models.images import ProcessedImage
from svd_vlm_ros.models.interface import Tokens
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.interface import EncoderSelector
from svd_vlm_ros.selection.tokens import merged_rows, token_rows
from svd_vlm_ros.selection.values import Budget, Need, Selection


class QwenEncoder:
    """From pixel values to fours of patches: `interface.VisionEncoder`.

    transformers' forward pass also merges all fours, 8 % of its time; what a selector then keeps
    is taken from there.
    """

    gives: frozenset[Need] = frozenset({"projected"})

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self._merge = int(visual.spatial_merge_size)
        self._weight = visual.patch_embed.proj.weight

    def __call__(
        self,
        image: ProcessedImage,
        needs: frozenset[Need] = frozenset(),
        selector: EncoderSelector | None = None,
        budget: Budget | None = None,
    ) -> VisualFeatures:
        """Encode one image; see `interface.VisionEncoder`.

        Returns:
            Features [N, 4 * D] of N fours: the rows that the merger takes.
        """
        grid = image.framing.grid
        assert grid is not None
        pixels = image.pixels.to(self._weight.device, self._weight.dtype)
        sizes = torch.tensor([[1, grid[0] * self._merge, grid[1] * self._merge]])
        seen = self._visual(pixels, grid_thw=sizes.to(pixels.device))
        return self._features(seen, grid)

    def _features(self, seen: Any, grid: tuple[int, int]) -> VisualFeatures:
        patches = seen.last_hidden_state.reshape(grid[0] * grid[1], -1)
        planes = torch.stack(list(seen.deepstack_features)) if seen.deepstack_features else None
        return VisualFeatures(patches, grid, projected=seen.pooler_output, planes=planes)


class QwenMerger:
    """The kept fours as visual tokens: `interface.Connector`."""

    def __init__(self, visual: Any, original: bool) -> None:
        """Take the merger of an encoder; `original`: tokens keep their places in the image."""
        self._merger, self._original = visual.merger, original
        self._merge = int(visual.spatial_merge_size)

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tokens:
        """The visual tokens, with their planes."""
        if selection.merge is None and features.projected is not None:
            rows = features.projected[selection.indices]
        else:
            kept = token_rows(features, selection)
            rows = self._merger(kept.view(len(kept) * self._merge**2, -1))
        planes = features.planes
        if planes is not None:
            planes = torch.stack([merged_rows(plane, selection) for plane in planes])
        if not self._original:
            return Tokens(rows, None, len(rows), planes)
        assert features.grid is not None
        offsets = _places(selection.indices, features.grid[1])
        return Tokens(rows, offsets, max(features.grid), planes)

    def room(self, features: VisualFeatures, kept: int) -> int:
        """Tokens, or position ids if they are more."""
        assert features.grid is not None
        return max(kept, *features.grid) if self._original else kept


def _places(indices: Tensor, columns: int) -> Tensor:
    """Positions [3, k] in time, down and across of fours in a grid."""
    return torch.stack([torch.zeros_like(indices), indices // columns, indices % columns])
