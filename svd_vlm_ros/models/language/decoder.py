# SPDX-License-Identifier: Apache-2.0
"""Decoder layers as a loop of our own, over transformers' public sub-modules.

The loop is what transformers' own model does, for one row of tokens and over a `Workspace`. It is
ours for three things that a stock forward pass can't do: nothing is copied or grown from token
to token, several conversations lie in one row behind a shared prefix, and between two layers tokens
may be dropped (`Between`), after which the layers hold different numbers of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from svd_vlm_ros.models.language.cache import Workspace
from svd_vlm_ros.models.tokens import Tokens

# Positions whose rotary embedding is held; models that were made for more are offered so many.
MAX_CONTEXT = 32_768


class Between(Protocol):
    """Looks at the tokens in front of every layer, and may drop some of them."""

    def __call__(
        self, layer: int, hidden: Tensor, offsets: Tensor, queries: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Drop tokens, or return None.

        Args:
            layer: the one that comes next.
            hidden: [n, hidden], what it would read.
            offsets: int64 [n], their positions behind what the cache holds already.
            queries: [1, heads, n, head size], of the layer before, rotated by their positions.

        Returns:
            The rows that go on, and their offsets.
        """
        ...


class Reader(Protocol):
    """The layers of a language model: `Decoder`, or transformers' own (`stock.py`).

    Attributes:
        layers: one for each.
        embedding: token ids to rows [n, hidden].
        head: from the last hidden states to logits.
        dtype, device: of the activations.
    """

    @property
    def layers(self) -> Sequence[Any]: ...  # noqa: D102

    @property
    def embedding(self) -> nn.Module: ...  # noqa: D102

    @property
    def head(self) -> nn.Module: ...  # noqa: D102

    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def workspace(self) -> Workspace:
        """An empty workspace for this model."""
        ...

    def read(
        self,
        tokens: Tokens,
        cache: Workspace,
        *,
        mask: Tensor | None = None,
        between: Between | None = None,
    ) -> Tensor:
        """Read n more tokens behind what the cache holds.

        Args:
            tokens: their embeddings, and their positions behind the cache's next one, which moves
                by their span.
            cache: takes up their keys and values, in each layer.
            mask: [n, m] in the dtype of the rows, 0 or -inf: what each token sees of the last m
                slots, its own among them; all sees what lies before those. None: each sees itself
                and all before it.
            between: may drop tokens in front of a layer; not together with a mask.

        Returns:
            [n, hidden] of the tokens that were left in the last layer.
        """
        ...


@dataclass(frozen=True, eq=False)
class DecoderParts:
    """A language model of pre-norm layers with rotary embedding and a gated MLP, in its parts.

    Attributes:
        embedding: token ids to rows [n, hidden].
        layers: each has transformers' public sub-modules `input_layernorm`, `self_attn` (`q_proj`,
            `k_proj`, `v_proj`, `o_proj`, and perhaps `q_norm` and `k_norm` over each head),
            `post_attention_layernorm` and `mlp`; their linear layers may be quantized.
        norm, head: from the last layer to logits.
        rotary: called with rows (for dtype and device) and position ids [1, n], or [3, 1, n] if
            the model has M-RoPE, it gives cosines and sines [1, n, head size].
        heads, key_value_heads: of queries, and of keys and values (fewer if heads are grouped).
        head_size: of each head.
        context: the most positions that the model was made for, at most `MAX_CONTEXT`.
    """

    embedding: nn.Module
    layers: tuple[Any, ...]  # sub-modules by name, which nn.Module's type doesn't know
    norm: nn.Module
    head: nn.Module
    rotary: nn.Module
    heads: int
    key_value_heads: int
    head_size: int
    context: int


class Decoder:
    """The layers of a language model, from embeddings to the last hidden states.

    Attributes:
        embedding, layers, norm, head, heads, key_value_heads, head_size: see `DecoderParts`.
        dtype, device: of the activations.
    """

    def __init__(self, parts: DecoderParts) -> None:
        self.embedding, self.norm, self.head = parts.embedding, parts.norm, parts.head
        self.layers = parts.layers
        self.heads, self.key_value_heads = parts.heads, parts.key_value_heads
        self.head_size = parts.head_size
        table = next(self.embedding.parameters())
        self.dtype, self.device = table.dtype, table.device
        self._rotary = parts.rotary
        self._head_norms = hasattr(self.layers[0].self_attn, "q_norm")
        # All positions at once, [context, head size]: a token then only looks its own up.
        with torch.inference_mode():
            positions = torch.arange(parts.context, device=self.device)
            self.cosines, self.sines = self._angles(positions)

    def workspace(self) -> Workspace:
        """An empty workspace for this model."""
        return Workspace(
            len(self.layers), self.key_value_heads, self.head_size, self.dtype, self.device
        )

    def read(
        self,
        tokens: Tokens,
        cache: Workspace,
        *,
        mask: Tensor | None = None,
        between: Between | None = None,
    ) -> Tensor:
        """See `Reader.read`. Tokens that see what stands behind them are not for this loop."""
        if tokens.mutual is not None:
            raise ValueError("this loop reads one way: take the stock layers")
        hidden, queries = tokens.rows, None
        offsets, moves = tokens.offsets, tokens.span
        planes = () if tokens.planes is None else tokens.planes
        rotations: dict[int, tuple[Tensor, Tensor]] = {}
        masks: dict[int, Tensor | None] = {}
        for index, layer in enumerate(self.layers):
            if between is not None:
                if offsets is None:
                    offsets = tokens.positions()
                left = between(index, hidden, offsets, queries)
                if left is not None:
                    hidden, offsets = left
                    moves = int(offsets[-1]) + 1
                    rotations.clear()
                    masks.clear()
            count, start = len(hidden), cache.positions[index]
            if start not in rotations:
                rotations[start] = self.rotation(start, count, offsets)
            held = cache.lengths[index]
            if held not in masks:
                masks[held] = self._mask(hidden, held, mask)
            hidden, queries = self._layer(
                layer, index, hidden, rotations[start], masks[held], cache
            )
            if index < len(planes):
                hidden = hidden + planes[index]
            cache.positions[index] = start + moves
        last: Tensor = self.norm(hidden)
        return last

    def project(
        self, index: int, hidden: Tensor, rows: Tensor, start: int, offsets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Queries of some rows and keys of all, as a layer would compute them from what comes in.

        Args:
            index: the layer.
            hidden: [n, hidden], what comes into it.
            rows: int64 [r], whose queries are wanted.
            start: the position of offset 0.
            offsets: int64 [n].

        Returns:
            Queries [1, heads, r, head size] and keys [1, cached heads, n, head size], both rotated.
        """
        layer = self.layers[index]
        normed = layer.input_layernorm(hidden)
        cosines, sines = self.rotation(start, len(hidden), offsets)
        attention = layer.self_attn
        queries = self.split(attention.q_proj(normed[rows]), self.heads)
        keys = self.split(attention.k_proj(normed), self.key_value_heads)
        if self._head_norms:
            queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        return rotate(queries, cosines[rows], sines[rows]), rotate(keys, cosines, sines)

    def rotation(self, start: int, count: int, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines [count, head size] of the rotary embedding, from position `start`."""
        if offsets is None:
            return self.cosines[start : start + count], self.sines[start : start + count]
        if offsets.ndim == 2:
            return self._angles(start + offsets)
        return self.cosines[start + offsets], self.sines[start + offsets]

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [n, head size] of positions [n] or [3, n], as `rotate` takes them."""
        if positions.ndim == 1 and hasattr(self._rotary, "mrope_section"):
            positions = positions.expand(3, -1)  # older transformers takes no less
        like = torch.empty(1, 1, 1, dtype=self.dtype, device=self.device)
        cosines, sines = self._rotary(like, positions.unsqueeze(-2))
        sines[..., : self.head_size // 2].neg_()
        return cosines[0], sines[0]

    def _layer(
        self,
        layer: Any,
        index: int,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: Workspace,
    ) -> tuple[Tensor, Tensor]:
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        # Rotated together: for a single token it is the number of operations that costs.
        both = torch.cat((attention.q_proj(normed), attention.k_proj(normed)), dim=1)
        states = self.split(both, self.heads + self.key_value_heads)
        if self._head_norms:
            queries, keys = states.split((self.heads, self.key_value_heads), dim=1)
            states = torch.cat((attention.q_norm(queries), attention.k_norm(keys)), dim=1)
        rotated = rotate(states, *rotation)
        queries, keys = rotated.split((self.heads, self.key_value_heads), dim=1)
        values = self.split(attention.v_proj(normed), self.key_value_heads)
        keys, values = cache.append(index, keys, values)
        seen = self.attend(queries, keys, values, mask)
        hidden = hidden + attention.o_proj(seen)
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden)), queries

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """SDPA of n queries; returns [n, heads * head size]. Without a mask all is seen, unless
        there are as many keys as queries: then each sees itself and all before it.
        """
        count = queries.shape[2]
        seen = scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None and count > 1,
            enable_gqa=self.heads != self.key_value_heads,
        )
        return seen[0].transpose(0, 1).reshape(count, self.heads * self.head_size)

    def split(self, states: Tensor, heads: int) -> Tensor:
        """[n, heads * head size] as [1, heads, n, head size]."""
        return states.view(len(states), heads, self.head_size).transpose(0, 1)[None]

    @staticmethod
    def _mask(hidden: Tensor, held: int, mask: Tensor | None) -> Tensor | None:
        """The mask [n, held + n] of n rows behind what is held; None if SDPA needs none."""
        count = len(hidden)
        if mask is None:
            if count == 1 or held == 0:
                return None
            mask = hidden.new_full((count, count), -torch.inf).triu(1)
        return pad(mask, (held + count - mask.shape[1], 0))


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate states [1, heads, n, d] by the angles of their positions [n, d].

    The first half of `sines` is negative: x * cos + (-x2, x1) * sin, as is usual, is then
    x * cos + (x2, x1) * sines.
    """
    return states * cosines + states.roll(states.shape[-1] // 2, -1) * sines
