# SPDX-License-Identifier: Apache-2.0
"""The sizes of a vision language model, by its parts."""

from __future__ import annotations

from dataclasses import dataclass

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.views import TYPICAL, Size, View, Views


@dataclass(frozen=True)
class Decoder:
    """A Llama-like language model: grouped attention, a gated MLP of three matrices.

    Biases and the norms of queries and keys, which some have, are left out: a ten-thousandth.

    Attributes:
        hidden: width of the residual stream.
        intermediate: width inside the MLP.
        layers: decoder layers.
        heads: query heads.
        kv_heads: key and value heads.
        head_size: numbers in a head.
        vocabulary: rows of the embedding and of the output head.
        tied: whether embedding and output head are one matrix.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = False

    @property
    def linear_rows(self) -> int:
        """Outputs of all linear layers: each has a scale of its own in int8."""
        attention = (self.heads + 2 * self.kv_heads) * self.head_size + self.hidden
        return self.layers * (attention + 2 * self.intermediate + self.hidden)

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers, the output head left out."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_size * self.hidden
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding, and as many of the output head."""
        return self.vocabulary * self.hidden

    @property
    def norm_weights(self) -> int:
        """Weights of the norms."""
        return (2 * self.layers + 1) * self.hidden

    @property
    def cache_numbers(self) -> int:
        """Numbers that the cache of keys and values holds for one token."""
        return 2 * self.layers * self.kv_heads * self.head_size


@dataclass(frozen=True)
class Tower:
    """A vision tower: a transformer over patches, in one piece or tile by tile.

    Attributes:
        hidden: width of a patch's features.
        intermediate: width inside the MLP.
        layers: layers that are stored.
        layers_used: layers that lead to the hidden states that the model looks at.
        patch_pixels: numbers that a patch is made of.
        weights: all of them, those of unused layers included: they are loaded all the same.
        matrices: of the MLP: 3 if it is gated.
        has_cls: whether a CLS token is encoded with the patches of each tile.
        window: patches in a window of attention; 0: all of a tile see each other in every layer.
        full_layers: layers in which all see each other, if there are windows.
        token_macs: multiply-accumulates within the tower for each visual token of the whole image
            (the mergers of DeepStack).
    """

    hidden: int
    intermediate: int
    layers: int
    layers_used: int
    patch_pixels: int
    weights: int
    matrices: int = 2
    has_cls: bool = False
    window: int = 0
    full_layers: int = 0
    token_macs: int = 0

    def rows(self, view: View) -> int:
        """Rows that each layer computes for one image."""
        return view.patches + (view.tiles if self.has_cls else 0)


@dataclass(frozen=True)
class Connector:
    """What makes a visual token of patches: projector, merger.

    Attributes:
        weights: all of them, biases and a newline's embedding included.
        token_macs: multiply-accumulates for each token that is kept.
    """

    weights: int
    token_macs: int


@dataclass(frozen=True)
class ModelSizes:
    """A vision language model: tower, connector, language model, and how it views images."""

    name: str
    tower: Tower
    connector: Connector
    decoder: Decoder
    views: Views

    def view(self, size: Size = TYPICAL) -> View:
        """What an image is to this model. Raises `UserError` if it can't take its size."""
        if min(size) < 1:
            raise UserError(f"An image can't be {size[1]}x{size[0]} pixels large.")
        return self.views(size)

    @property
    def weights(self) -> int:
        """All weights."""
        text = self.decoder
        tables = text.embedding_weights * (1 if text.tied else 2)
        language = text.linear_weights + text.norm_weights + tables
        return self.tower.weights + self.connector.weights + language
