# SPDX-License-Identifier: Apache-2.0
"""What a selector may look at: an image's patches, and what it asked for by its `needs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from svd_vlm_ros.selection.values import Need, Selection


@dataclass(frozen=True, eq=False)
class ImageText:
    """Patches and a question as directions of one space, to be compared by their scalar products.

    Attributes:
        patches: float [N, d], rows of length 1.
        text: float [t, d], rows of length 1: the whole question (t = 1) or each of its words.
        inverted: whether the patches are known to lie the wrong way round in this space: the
            *least* similar ones are relevant then. Else the most similar ones are.
    """

    patches: Tensor
    text: Tensor
    inverted: bool = False

    def __post_init__(self) -> None:
        _check_rows("image_text.patches", self.patches, None)
        _check_rows("image_text.text", self.text, None)
        if self.patches.shape[1] != self.text.shape[1] or not len(self.text):
            raise ValueError(
                f"patches {tuple(self.patches.shape)} and text {tuple(self.text.shape)} are not in "
                "one space"
            )

    def relevance(self) -> Tensor:
        """How relevant each patch is to the question: float64 [N], larger is more.

        The mean of its scalar products with the text's rows, negated in an inverted space.
        """
        text = self.text.to(torch.float64).mean(dim=0)
        similarity = self.patches.to(torch.float64) @ text.to(self.patches.device)
        return -similarity if self.inverted else similarity


@dataclass(frozen=True, eq=False)
class Encoder:
    """A vision encoder opened up, for a selector that works inside it.

    Attributes:
        hidden: float [1, c + N, D]: class token and patches as the first layer takes them.
        layers: the layers that lead to the patches' features, in order. Each has transformers'
            public sub-modules `layer_norm1`, `self_attn` (`q_proj`, `k_proj`, `v_proj`,
            `out_proj`, `num_heads`, `head_dim`, `scale`), `layer_norm2` and `mlp`.
        class_tokens: c, rows in front of the patches: 1, or 0 for an encoder without class token.
    """

    hidden: Tensor
    layers: Sequence[nn.Module]
    class_tokens: int = 1


@dataclass(frozen=True, eq=False)
class VisualFeatures:
    """The patches of one image as the vision encoder sees them, and what a selector asked for.

    Attributes:
        patches: float [N, D], the encoder's output that the connector takes, in raster order, no
            class token among them.
        grid: rows and columns of patches, rows * columns == N; None: they form no one grid.
        tiles: rows and columns of each tile if the image was cut into some, in the order of their
            patches; (): it was not.
        thumbnail: which of the tiles shows the whole image; None: none does.
        planes: float [p, N, hidden], what else goes to the language model with each patch
            (DeepStack), behind each of its first p layers; None: nothing.
        valid: bool [N], False where a patch shows only padding; None: all patches are valid.
        class_attention: need "class_attention". float32 [heads, N]: how much the class token looks
            at each patch in the layer whose output `patches` is. Its look at itself is left out, so
            that a row sums to less than 1. From an encoder without class token: how much attention
            each patch receives there, the mean over all that look. If a visual token stands for
            several patches of the encoder's, the mean of theirs, so that a row again sums to less.
        class_token: need "class_attention". float [D], the class token beside the patches; None
            from an encoder without class token.
        keys: need "keys". float [N, head size]: that layer's keys, the mean over its heads, before
            they are rotated by their places if the layer does that; the mean of several patches as
            above.
        class_key: need "keys". float [head size], the key of the class token; None as above.
        projected: need "projected". float [N, hidden], all patches through the connector.
        image_text: need "image_text". Patches and question in one space.
        question: need "question". float [t, hidden], the language model's embeddings of the
            question's tokens.
        encoder: need "encoder". The encoder itself.
        encoded: what a selector with that need has made in the encoder already.
    """

    patches: Tensor
    grid: tuple[int, int] | None
    valid: Tensor | None = None
    class_attention: Tensor | None = None
    class_token: Tensor | None = None
    keys: Tensor | None = None
    class_key: Tensor | None = None
    projected: Tensor | None = None
    image_text: ImageText | None = None
    question: Tensor | None = None
    encoder: Encoder | None = None
    encoded: Selection | None = None
    tiles: tuple[tuple[int, int], ...] = ()
    thumbnail: int | None = None
    planes: Tensor | None = None

    def __post_init__(self) -> None:
        if self.patches.ndim != 2 or not self.patches.is_floating_point():
            raise ValueError(f"patches must be a float tensor [N, D], not {self.patches.shape}")
        if self.grid is not None and self.grid[0] * self.grid[1] != len(self):
            raise ValueError(f"a grid of {self.grid} does not hold {len(self)} patches")
        if self.tiles and sum(rows * columns for rows, columns in self.tiles) != len(self):
            raise ValueError(f"tiles of {self.tiles} do not hold {len(self)} patches")
        if self.valid is not None:
            if self.valid.dtype != torch.bool or self.valid.shape != (len(self),):
                raise ValueError(f"valid must be a bool tensor [{len(self)}]")
            if not bool(self.valid.any()):
                raise ValueError("no patch is valid")
        _check_rows("keys", self.keys, len(self))
        _check_rows("projected", self.projected, len(self))
        _check_rows("question", self.question, None)
        if self.image_text is not None:
            _check_rows("image_text.patches", self.image_text.patches, len(self))
        attention = self.class_attention
        if attention is not None and (attention.ndim != 2 or attention.shape[1] != len(self)):
            raise ValueError(f"class_attention must be [heads, {len(self)}], not {attention.shape}")

    def __len__(self) -> int:
        return int(self.patches.shape[0])

    def valid_indices(self) -> Tensor:
        """The indices of the patches that show some of the image: int64 [n], ascending."""
        if self.valid is None:
            return torch.arange(len(self), device=self.patches.device)
        return torch.nonzero(self.valid).flatten()

    def part(self, rows: Tensor, tiles: tuple[tuple[int, int], ...]) -> VisualFeatures | None:
        """Some of the patches alone, as an image of their own; None: none of them is valid.

        Args:
            rows: int64 [n], ascending.
            tiles: that they make up.
        """
        valid = None if self.valid is None else self.valid[rows]
        if valid is not None and not bool(valid.any()):
            return None
        text = self.image_text
        looks = self.class_attention
        return replace(
            self,
            patches=self.patches[rows],
            grid=tiles[0] if len(tiles) == 1 else None,
            valid=valid,
            class_attention=None if looks is None else looks[:, rows],
            keys=None if self.keys is None else self.keys[rows],
            projected=None if self.projected is None else self.projected[rows],
            image_text=None if text is None else replace(text, patches=text.patches[rows]),
            tiles=tiles,
            thumbnail=None,
            planes=None if self.planes is None else self.planes[:, rows],
        )

    def has(self, need: Need) -> bool:
        """Whether what a need stands for is there."""
        if need == "encoder":
            return self.encoder is not None or self.encoded is not None
        return getattr(self, need) is not None


def _check_rows(name: str, rows: Tensor | None, count: int | None) -> None:
    if rows is None:
        return
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(f"{name} must be a float matrix, not {rows.dtype} {tuple(rows.shape)}")
    if count is not None and len(rows) != count:
        raise ValueError(f"{name} must have {count} rows, not {len(rows)}")
