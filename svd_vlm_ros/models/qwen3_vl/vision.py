# SPDX-License-Identifier: Apache-2.0
"""Qwen's encoder as transformers runs it, and its merger for the kept fours alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from svd_vlm_ros.models.attention import attention_received
from svd_vlm_ros.models.images import ProcessedImage
from svd_vlm_ros.models.tokens import Tokens
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.interface import EncoderSelector
from svd_vlm_ros.selection.tokens import merged_rows, token_rows
from svd_vlm_ros.selection.values import Budget, Need, Selection


class QwenEncoder:
    """From pixel values to fours of patches: `interface.VisionEncoder`.

    transformers' forward pass also merges all fours, 8 % of its time; what a selector then keeps
    is taken from there. There is no class token: "class_attention" is the attention that a four
    receives in the last block, "keys" are that block's keys, and both are the mean of its patches.
    """

    gives: frozenset[Need] = frozenset({"projected", "class_attention", "keys"})

    def __init__(self, visual: Any) -> None:
        self.visual = visual
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
        last = self.visual.blocks[-1].attn
        with ExitStack() as stack:
            wanted = needs & {"class_attention", "keys"}
            watched = stack.enter_context(_watching(last)) if wanted else {}
            seen = self.visual(pixels, grid_thw=sizes.to(pixels.device))
        rows = {"patches": seen.last_hidden_state.reshape(grid[0] * grid[1], -1)}
        if "keys" in needs:
            rows["keys"] = self._of_fours(_keys(last, watched))
        if "class_attention" in needs:
            rows["class_attention"] = self._of_fours(_looks(last, watched))
        raster = self.raster(sizes)
        if raster is not None:
            rows = {name: each[raster.to(each.device)] for name, each in rows.items()}
        if "class_attention" in needs:
            rows["class_attention"] = rows["class_attention"].T
        deep = getattr(seen, "deepstack_features", None)
        planes = torch.stack(list(deep)) if deep else None
        return VisualFeatures(grid=grid, projected=seen.pooler_output, planes=planes, **rows)

    def raster(self, sizes: Tensor) -> Tensor | None:
        """Where the encoder's last hidden states have each four of an image, in raster order.

        Args:
            sizes: int64 [1, 3], frames, rows and columns of patches.

        Returns:
            int64 [N]; None: they are in raster order.
        """
        return None

    def _of_fours(self, rows: Tensor) -> Tensor:
        """The mean of each four's rows: [N, d] of [n, d]."""
        fours: Tensor = rows.unflatten(0, (-1, self._merge**2))
        return fours.mean(dim=1)


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


@contextmanager
def _watching(attention: Any) -> Iterator[dict[str, Any]]:
    """Note what a block's attention is called with, by name, and its "qkv", [n, 3 * D]."""
    noted: dict[str, Any] = {}
    hooks = (
        attention.register_forward_pre_hook(
            lambda module, args, given: noted.update(given), with_kwargs=True
        ),
        attention.qkv.register_forward_hook(lambda module, args, made: noted.update(qkv=made)),
    )
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _split(attention: Any, noted: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Queries and keys [n, heads, head size], not rotated yet."""
    queries, keys, _ = noted["qkv"].unflatten(1, (3, attention.num_heads, -1)).unbind(1)
    return queries, keys


def _keys(attention: Any, noted: dict[str, Any]) -> Tensor:
    """The keys of patches, the mean over heads: float32 [n, head size]. They are not rotated: they
    are to tell what a patch shows, and not where.
    """
    return _split(attention, noted)[1].float().mean(dim=1)


def _looks(attention: Any, noted: dict[str, Any]) -> Tensor:
    """How much attention patches receive: float32 [n, heads]."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

    queries, keys = apply_rotary_pos_emb_vision(
        *_split(attention, noted), *noted["position_embeddings"]
    )
    # Within a window, if this block has some: what lies outside gets none.
    shares = [
        attention_received(queries[start:end], keys[start:end], attention.scaling)
        * ((end - start) / len(queries))
        for start, end in pairwise(noted["cu_seqlens"].tolist())
    ]
    return torch.cat(shares, dim=1).T


def _places(indices: Tensor, columns: int) -> Tensor:
    """Positions [3, k] in time, down and across of fours in a grid."""
    return torch.stack([torch.zeros_like(indices), indices // columns, indices % columns])
