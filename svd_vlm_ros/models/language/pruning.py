# SPDX-License-Identifier: Apache-2.0
"""Dropping visual tokens between the layers of the language model, as a selector's plan says."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from svd_vlm_ros.models.language.cache import Workspace
from svd_vlm_ros.models.language.decoder import Decoder
from svd_vlm_ros.selection.inside import LayerSelector, View
from svd_vlm_ros.selection.values import Budget, Selection

ROWS_AT_ONCE = 64  # of explicit attention: 32 heads of 640 tokens are 5 MB then


class Pruning:
    """Stands between the layers while one question is read (`decoder.Between`).

    The row that is read begins with the visual tokens; the question follows. Attention weights are
    computed for the rows that the selector asks for, and for no other: SDPA does the layers' work.

    Attributes:
        counts: visual tokens that each layer has read so far.
    """

    def __init__(
        self,
        selector: LayerSelector,
        budget: Budget,
        visual_tokens: int,
        decoder: Decoder,
        cache: Workspace,
    ) -> None:
        """Plan. Raises `UserError` if the budget can't be reached."""
        self._selector, self._decoder, self._cache = selector, decoder, cache
        self._plan = selector.plan(len(decoder.layers), visual_tokens, budget)
        self._total = visual_tokens
        self.counts: list[int] = []
        self._patches = torch.arange(visual_tokens, device=decoder.device)  # of each token
        self._made_of: Tensor | None = None  # [n, N]: weights of the patches, once some are merged
        self._scores: Tensor | None = None
        self._embedded: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, layer: int, hidden: Tensor, offsets: Tensor, queries: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Drop what the plan drops in front of a layer; see `decoder.Between`."""
        count = len(self._patches)
        if self._embedded is None:
            self._embedded = hidden[:count], hidden[count:]
        planned = self._plan.counts
        if layer == 0 or planned[layer] == planned[layer - 1]:
            self.counts.append(count)
            return None
        attention = partial(self._attention, layer, hidden, offsets, queries)
        view = View(
            keep=min(planned[layer], count),
            energy=self._plan.energy,
            visual=hidden[:count],
            embedded=self._embedded,
            attention=attention,
        )
        kept = self._selector.keep(view)
        if self._scores is None:
            self._scores = kept.scores
        stay = [kept.indices]
        rows = [hidden[kept.indices]]
        if kept.merge is not None and kept.centres is not None:
            stay.append(kept.centres)
            rows.append((kept.merge @ hidden[:count].float()).to(hidden.dtype))
        self._follow(kept.indices, kept.merge)
        left = torch.cat(stay)
        self._patches = self._patches[left]
        hidden = torch.cat([*rows, hidden[count:]])
        if self._plan.renumber:
            offsets = torch.arange(len(hidden), device=hidden.device)
        else:
            offsets = torch.cat([offsets[left], offsets[count:]])
        self.counts.append(len(left))
        return hidden, offsets

    def selection(self) -> Selection:
        """What the last layer read, and the scores of the first stage."""
        scores = self._scores
        if scores is None or not float(scores.sum()) > 0.0:
            scores = torch.full((self._total,), 1.0, device=self._patches.device)
        order = self._patches.argsort(stable=True)
        merge = None
        if self._made_of is not None:
            dense = self._made_of[order]
            merge = torch.cat([dense.new_zeros(len(dense), 1), dense], dim=1).to_sparse()
        return Selection(self._patches[order], scores / scores.sum(), merge)

    def _follow(self, indices: Tensor, merge: Tensor | None) -> None:
        """Keep book of the patches that each token is made of."""
        if merge is None and self._made_of is None:
            return
        if self._made_of is None:
            self._made_of = torch.eye(self._total, device=indices.device)[self._patches]
        parts = [self._made_of[indices]]
        if merge is not None:
            parts.append(merge @ self._made_of)
        self._made_of = torch.cat(parts)

    def _attention(
        self, layer: int, hidden: Tensor, offsets: Tensor, queries: Tensor | None, rows: Tensor
    ) -> Tensor:
        """How much some rows look at the visual tokens: float32 [r, n]; see `View.attention`."""
        cache, decoder = self._cache, self._decoder
        if self._plan.attention == "next":
            start = cache.positions[layer]
            chosen, fresh = decoder.project(layer, hidden, rows, start, offsets)
            keys = torch.cat([cache.keys[layer][:, :, : cache.lengths[layer]], fresh], dim=2)
        else:
            assert queries is not None
            chosen = queries[:, :, rows]
            keys = cache.keys[layer - 1][:, :, : cache.lengths[layer - 1]]
        keys = keys.float().repeat_interleave(decoder.heads // decoder.key_value_heads, dim=1)
        before = keys.shape[2] - len(hidden)
        count = len(self._patches)
        pieces = zip(chosen.split(ROWS_AT_ONCE, dim=2), rows.split(ROWS_AT_ONCE), strict=True)
        weights = [mean_weights(some, keys, before + slots) for some, slots in pieces]
        return torch.cat(weights)[:, before : before + count]


def mean_weights(queries: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
    """Attention weights, the mean over heads, in float32.

    Args:
        queries: [1, heads, r, d].
        keys: float32 [1, heads, n, d].
        slots: int64 [r], the slot of each query: it sees the keys up to there.

    Returns:
        [r, n], each row summing to 1.
    """
    scores = queries.float() @ keys.transpose(2, 3) / queries.shape[3] ** 0.5  # [1, heads, r, n]
    hidden_from = torch.arange(keys.shape[2], device=keys.device) > slots[:, None]
    weights: Tensor = scores.masked_fill(hidden_from, -torch.inf).softmax(dim=3)[0].mean(dim=0)
    return weights
