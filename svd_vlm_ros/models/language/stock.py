# SPDX-License-Identifier: Apache-2.0
"""Decoder layers as transformers runs them, given explicit masks and positions.

For language models that the loop of our own does not fit: other norms, sliding windows, tokens of
an image that see each other. It is exact for whatever transformers computes from embeddings, 4D
masks and positions; only dropping tokens between two layers is not possible. Where both fit, the
loop of our own does less beside the layers' work: it copies no grouped keys for a mask, and needs
no mask for a single token.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from svd_vlm_ros.models.language.cache import Prefix, Workspace
from svd_vlm_ros.models.language.decoder import Between
from svd_vlm_ros.models.tokens import Tokens

FULL, SLIDING = "full_attention", "sliding_attention"


class StockDecoder:
    """The text model of transformers over a `Workspace`: `decoder.Reader`.

    Attributes:
        layers, embedding, head, dtype, device: see `decoder.Reader`.
    """

    def __init__(self, language: Any, head: nn.Module) -> None:
        """Take a model's language part, in evaluation mode.

        Args:
            language: its text model, which takes embeddings, a 4D mask, positions and a cache. Its
                layers are of full attention, or have one sliding window.
            head: to logits.
        """
        config = language.config
        self._language, self.head = language, head
        self.embedding: nn.Module = language.get_input_embeddings()
        self.layers = tuple(language.layers)
        table = next(self.embedding.parameters())
        self.dtype, self.device = table.dtype, table.device
        heads = config.num_attention_heads
        self._heads = config.num_key_value_heads or heads
        self._head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        kinds = set(getattr(config, "layer_types", None) or (FULL,))
        if kinds - {FULL, SLIDING}:
            raise ValueError(f"layers of {', '.join(sorted(kinds))} can't share a prefix")
        self._window: int | None = config.sliding_window if SLIDING in kinds else None
        # transformers 5.24 calls the cache by another name than those before it.
        named = inspect.signature(language.forward).parameters
        self._cache = "cache" if "cache" in named else "past_key_values"

    def workspace(self) -> Workspace:
        """An empty workspace for this model."""
        made = Workspace if self._window is None else PlacedWorkspace
        return made(len(self.layers), self._heads, self._head_size, self.dtype, self.device)

    def read(
        self,
        tokens: Tokens,
        cache: Workspace,
        *,
        mask: Tensor | None = None,
        between: Between | None = None,
    ) -> Tensor:
        """See `decoder.Reader.read`; nothing can be dropped between the layers."""
        if between is not None:
            raise ValueError("nothing can be dropped between stock layers")
        held, start = cache.lengths[0], cache.positions[0]
        positions = start + tokens.positions()
        sees = _sees(tokens, held, mask)
        masks: Any = sees[None, None]
        if isinstance(cache, PlacedWorkspace) and self._window is not None:
            places = cache.append_places(positions)
            beyond = positions[:, None] - places[None, :] >= self._window
            masks = {FULL: masks, SLIDING: sees.masked_fill(beyond, -torch.inf)[None, None]}
        extra: dict[str, Any] = {self._cache: _Slots(cache)}
        if tokens.planes is not None:
            everywhere = torch.ones(1, len(tokens), dtype=torch.bool, device=self.device)
            extra["visual_pos_masks"] = everywhere
            extra["deepstack_visual_embeds"] = list(tokens.planes)
        hidden: Tensor = self._language(
            inputs_embeds=tokens.rows[None],
            attention_mask=masks,
            position_ids=positions.unsqueeze(-2),
            use_cache=True,
            **extra,
        ).last_hidden_state[0]
        cache.positions = [start + tokens.span] * len(self.layers)
        return hidden


class PlacedWorkspace(Workspace):
    """A workspace that knows at which position each of its tokens stands, for sliding windows.

    A window goes by positions, not by slots: several conversations lie in one row, and of an image
    of which little is kept the rest may keep its room.

    Attributes:
        places: int64 [length] of all layers.
    """

    places: Tensor

    def begin(self, prefix: Prefix | None, room: int) -> None:
        """See `Workspace.begin`."""
        super().begin(prefix, room)
        held = None if prefix is None else prefix.places
        nothing = torch.empty(0, dtype=torch.int64, device=self._device)
        self.places = nothing if held is None else held

    def append_places(self, positions: Tensor) -> Tensor:
        """The places of all tokens, with those [n] that are read now."""
        self.places = torch.cat([self.places, positions])
        return self.places

    def copy_to(self, prefix: Prefix) -> None:
        """See `Workspace.copy_to`."""
        super().copy_to(prefix)
        prefix.places = self.places[: prefix.length].clone()


class _Slots:
    """A workspace as transformers' layers take a cache."""

    def __init__(self, cache: Workspace) -> None:
        self._cache = cache

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Put more tokens into a layer; see `Workspace.append`."""
        return self._cache.append(layer, keys, values)

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens that a layer holds."""
        return self._cache.lengths[layer]


def _sees(tokens: Tokens, held: int, mask: Tensor | None) -> Tensor:
    """What n tokens see of the slots that are held and of themselves: [n, held + n], 0 or -inf."""
    count = len(tokens)
    if mask is None:
        mask = tokens.rows.new_full((count, count), -torch.inf).triu(1)
    mask = pad(mask, (held + count - mask.shape[1], 0))
    if tokens.mutual is not None:
        # Tokens of an image follow each other, and text stands between two images.
        before = pad(tokens.mutual, (1, 0))[:-1]
        image = (tokens.mutual & ~before).cumsum(0)
        same = tokens.mutual[:, None] & tokens.mutual & (image[:, None] == image)
        mask = mask.masked_fill(pad(same, (held, 0)), 0.0)
    return mask
