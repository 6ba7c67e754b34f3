# SPDX-License-Identifier: Apache-2.0
"""One written token as one compiled graph; on CUDA a CUDA graph, launched as one.

Without it a token of a 7B model asks the device for some 500 small things, which takes longer than
the device needs for them. Not measured on a GPU: the tests compare its tokens on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from svd_vlm_ros.models.language.cache import Workspace
from svd_vlm_ros.models.language.decoder import Decoder, rotate

Pair = tuple[Tensor, Tensor]


class CompiledStep:
    """Reads one token and says the next, over whole buffers, since a graph has one shape.

    Attention goes over all slots that the workspace has, with those that are not in use masked.
    The layers may hold different numbers of tokens.
    """

    def __init__(self, decoder: Decoder, head: nn.Module, backend: str | None = None) -> None:
        """Compile at the first call.

        Args:
            decoder, head: of the model.
            backend: of `torch.compile`; None: inductor with CUDA graphs.
        """
        self._decoder, self._head = decoder, head
        options: dict[str, Any] = {"backend": backend} if backend else {"mode": "reduce-overhead"}
        self._step: Callable[..., Pair] = torch.compile(
            self._eager, fullgraph=True, dynamic=False, **options
        )

    def __call__(self, token: Tensor, cache: Workspace) -> Pair:
        """Read a token, int64 [1], behind what the cache holds; the next and its probability."""
        cache.reserve(1)
        device = token.device
        torch.compiler.cudagraph_mark_step_begin()
        slots = torch.tensor(cache.lengths, device=device)
        positions = torch.tensor(cache.positions, device=device)
        for buffer in (*cache.keys, *cache.values):
            torch._dynamo.mark_static_address(buffer)
        found = self._step(token, slots, positions, cache.keys, cache.values)
        cache.lengths = [length + 1 for length in cache.lengths]
        cache.positions = [position + 1 for position in cache.positions]
        return found[0].clone(), found[1].clone()  # the graph's own are overwritten by the next

    def _eager(
        self,
        token: Tensor,
        slots: Tensor,
        positions: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Pair:
        decoder = self._decoder
        hidden = decoder.embedding(token)
        places = torch.arange(keys[0].shape[2], device=token.device)
        for index, layer in enumerate(decoder.layers):
            slot, position = slots[index : index + 1], positions[index : index + 1]
            turn = decoder.cosines[position], decoder.sines[position]
            attention = layer.self_attn
            normed = layer.input_layernorm(hidden)
            queries = rotate(decoder.split(attention.q_proj(normed), decoder.heads), *turn)
            fresh = rotate(decoder.split(attention.k_proj(normed), decoder.cached_heads), *turn)
            keys[index].index_copy_(2, slot, fresh)
            values[index].index_copy_(
                2, slot, decoder.split(attention.v_proj(normed), decoder.cached_heads)
            )
            mask = torch.zeros_like(places, dtype=hidden.dtype)
            mask = mask.masked_fill(places > slot, -torch.inf)[None]
            seen = scaled_dot_product_attention(
                queries,
                keys[index],
                values[index],
                attn_mask=mask,
                enable_gqa=decoder.heads != decoder.cached_heads,
            )
            hidden = hidden + attention.o_proj(seen.view(1, -1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return greedy(self._head(decoder.norm(hidden)))


def greedy(logits: Tensor) -> Pair:
    """The likeliest tokens, int64 [r], of logits [r, vocabulary], and their probabilities."""
    highest, tokens = logits.float().max(dim=-1)
    return tokens, (highest - logits.float().logsumexp(dim=-1)).exp()
