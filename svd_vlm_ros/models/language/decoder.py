# SPDX-License-Identifier: Apache-2.0
"""Llama's layers as a loop of our own, over transformers' public sub-modules.

The loop is what transformers' `LlamaModel` does, for one row of tokens and over a `Workspace`. It
is ours for three things that a stock forward pass can't do: nothing is copied or grown from token
to token, several conversations lie in one row behind a shared prefix, and between two layers tokens
may be dropped (`Between`), after which the layers hold different numbers of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from svd_vlm_ros.models.language.cache import Workspace
from svd_vlm_ros.models.llava.architecture import text_config

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


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
            queries: [1, heads, n, head size], of the layer before, turned by their positions.

        Returns:
            The rows that go on, and their offsets.
        """
        ...


class Decoder:
    """The layers of the language model, from embeddings to the last hidden states.

    Attributes:
        layers: transformers' `LlamaDecoderLayer`s; their linear layers may be quantized.
        heads, cached_heads: of queries, and of keys and values (fewer where heads are grouped).
        head_size: of each head.
        dtype, device: of the activations.
    """

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        config = text_config(model.config)
        stock = model.model.language_model
        self.embedding = stock.embed_tokens
        self.layers: list[Any] = list(stock.layers)
        self.heads: int = config.num_attention_heads
        self.cached_heads: int = config.num_key_value_heads or self.heads
        self.head_size: int = config.head_dim or config.hidden_size // self.heads
        self.dtype, self.device = self.embedding.weight.dtype, self.embedding.weight.device
        self.norm = stock.norm
        # All positions at once, [context, head size]: a token then only looks its own up.
        with torch.inference_mode():
            places = torch.arange(config.max_position_embeddings, device=self.device)[None]
            model_rows = torch.empty(1, 1, 1, dtype=self.dtype, device=self.device)
            cosines, sines = stock.rotary_emb(model_rows, places)
            sines[..., : self.head_size // 2].neg_()  # see `rotate`
        self.cosines, self.sines = cosines[0], sines[0]

    def workspace(self) -> Workspace:
        """An empty workspace for this model."""
        return Workspace(
            len(self.layers), self.cached_heads, self.head_size, self.dtype, self.device
        )

    def read(
        self,
        rows: Tensor,
        cache: Workspace,
        *,
        offsets: Tensor | None = None,
        mask: Tensor | None = None,
        between: Between | None = None,
    ) -> Tensor:
        """Read n more tokens behind what the cache holds.

        Args:
            rows: [n, hidden], their embeddings.
            cache: takes up their keys and values, in each layer.
            offsets: int64 [n], the position of each token behind the cache's next one, which then
                stays where it is. None: the tokens lie behind each other, and the next position
                moves behind them.
            mask: [n, m] in the dtype of the rows, 0 or -inf: what each token sees of the last m
                slots, its own among them; all sees what lies before those. None: each sees itself
                and all before it.
            between: may drop tokens in front of a layer; not together with offsets or mask.

        Returns:
            [n, hidden] of the tokens that were left in the last layer.
        """
        hidden, queries = rows, None
        moves = 0 if offsets is not None else len(rows)
        turns: dict[int, tuple[Tensor, Tensor]] = {}
        masks: dict[int, Tensor | None] = {}
        for index, layer in enumerate(self.layers):
            if between is not None:
                if offsets is None:
                    offsets = torch.arange(len(rows), device=rows.device)
                left = between(index, hidden, offsets, queries)
                if left is not None:
                    hidden, offsets = left
                    moves = int(offsets[-1]) + 1
                    turns.clear()
                    masks.clear()
            count, start = len(hidden), cache.positions[index]
            if start not in turns:
                turns[start] = self.turn(start, count, offsets)
            held = cache.lengths[index]
            if held not in masks:
                masks[held] = self._mask(hidden, held, mask)
            hidden, queries = self._layer(layer, index, hidden, turns[start], masks[held], cache)
            cache.positions[index] = start + moves
        return self.norm(hidden)

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
            Queries [1, heads, r, head size] and keys [1, cached heads, n, head size], both turned.
        """
        layer = self.layers[index]
        normed = layer.input_layernorm(hidden)
        cosines, sines = self.turn(start, len(hidden), offsets)
        queries = self.split(layer.self_attn.q_proj(normed[rows]), self.heads)
        keys = self.split(layer.self_attn.k_proj(normed), self.cached_heads)
        return rotate(queries, cosines[rows], sines[rows]), rotate(keys, cosines, sines)

    def turn(self, start: int, count: int, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
        """The rotary cosines and sines [count, head size] of positions behind `start`."""
        if offsets is None:
            return self.cosines[start : start + count], self.sines[start : start + count]
        return self.cosines[start + offsets], self.sines[start + offsets]

    def _layer(
        self,
        layer: Any,
        index: int,
        hidden: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: Workspace,
    ) -> tuple[Tensor, Tensor]:
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        # Turned together: for a single token it is the number of operations that costs.
        both = torch.cat((attention.q_proj(normed), attention.k_proj(normed)), dim=1)
        turned = rotate(self.split(both, self.heads + self.cached_heads), *turn)
        queries, keys = turned.split((self.heads, self.cached_heads), dim=1)
        values = self.split(attention.v_proj(normed), self.cached_heads)
        keys, values = cache.append(index, keys, values)
        seen = self.attend(queries, keys, values, mask)
        hidden = hidden + attention.o_proj(seen)
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden)), queries

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """SDPA of n queries; returns [n, heads * head size]. Without a mask all is seen, but where
        there are as many keys as queries: there each sees itself and all before it.
        """
        count = queries.shape[2]
        seen = scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None and count > 1,
            enable_gqa=self.heads != self.cached_heads,
        )
        return seen[0].transpose(0, 1).reshape(count, self.heads * self.head_size)

    def split(self, states: Tensor, heads: int) -> Tensor:
        """[n, heads * head size] as [1, heads, n, head size]."""
        return states.view(len(states), heads, self.head_size).transpose(0, 1)[None]

    @staticmethod
    def _mask(hidden: Tensor, held: int, mask: Tensor | None) -> Tensor | None:
        """The mask [n, held + n] of n rows behind what is held; None where SDPA needs none."""
        count = len(hidden)
        if mask is None:
            if count == 1 or held == 0:
                return None
            mask = hidden.new_full((count, count), -torch.inf).triu(1)
        return pad(mask, (held + count - mask.shape[1], 0))


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn states [1, heads, n, d] by the rotary angles of their positions [n, d].

    The first half of `sines` is negative: x * cos + (-x2, x1) * sin, as Llama has it, is then
    x * cos + (x2, x1) * sines.
    """
    return states * cosines + states.roll(states.shape[-1] // 2, -1) * sines
