# SPDX-License-Identifier: Apache-2.0
"""The language model with its key-value cache: read a prefix once, continue from it many times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from svd_vlm_ros.llava.architecture import text_config

if TYPE_CHECKING:
    from transformers import DynamicCache, LlavaForConditionalGeneration


@dataclass(frozen=True, eq=False)
class Prefix:
    """What the language model has read: the keys and values of each layer. Never written to.

    Attributes:
        layers: for each layer the keys and the values, [1, heads, length, head size].
        length: tokens read, visual ones among them.
        reader: identifies the language model that read it; no other can continue it.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    length: int
    reader: object

    @property
    def memory_bytes(self) -> int:
        """Bytes that the keys and values take."""
        return sum(states.nbytes for layer in self.layers for states in layer)


class LanguageModel:
    """Llama in three uses: `read` a prefix, `continue_from` it token by token, `score` texts."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self._decoder = model.model.language_model
        self._embedding = self._decoder.embed_tokens
        self._head = model.lm_head
        self._config = text_config(model.config)
        self._device = self._embedding.weight.device
        self._identity = object()  # not the model itself: a prefix must not keep it in memory

    @property
    def context(self) -> int:
        """The most tokens that the model was made for."""
        return self._config.max_position_embeddings

    def embed(self, ids: Sequence[int]) -> Tensor:
        """The embeddings [n, hidden] of n token ids."""
        return self._embedding(torch.tensor(ids, dtype=torch.int64, device=self._device))

    def read(self, embeddings: Tensor) -> Prefix:
        """Read the embeddings [n, hidden] of a prefix's tokens, text and picture alike."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._config)
        self._forward(embeddings, cache)
        layers = tuple((keys, values) for keys, values, _ in cache)
        return Prefix(layers, len(embeddings), self._identity)

    def continue_from(self, prefix: Prefix, ids: Sequence[int]) -> Iterator[tuple[int, float]]:
        """Read more tokens behind a prefix, then write greedily, without an end.

        Args:
            prefix: is left as it is.
            ids: one or more tokens.

        Yields:
            The next token and the probability that the model gave it. The first one costs the
            reading of `ids`, each other one a step with a single token; nothing is computed ahead.
        """
        cache = self._cache(prefix)
        rows = self.embed(ids)
        while True:
            logits = self._head(self._forward(rows, cache)[-1]).float()  # [vocabulary]
            token = int(logits.argmax())
            yield token, float(logits.softmax(0)[token])
            rows = self.embed([token])

    def score(
        self, prefix: Prefix, ids: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> list[float]:
        """The log-probability of each of several texts, all in one forward pass.

        The texts lie behind each other in one row. A mask lets each see the prefix, `ids` and
        itself, and each begins at the same position, so that the result is that of a pass for each
        text alone, while prefix and `ids` are read once and are not held once a text.

        Args:
            prefix: is left as it is.
            ids: one or more tokens between the prefix and each text.
            texts: the token ids of each text, one or more.

        Returns:
            For each text the sum of the log-probabilities of its tokens.
        """
        rows = [*ids, *(token for text in texts for token in text)]
        positions = list(range(len(ids)))
        sees = torch.zeros(len(rows), len(rows), dtype=torch.bool)
        sees[:, : len(ids)] = True
        start = len(ids)
        for text in texts:
            positions += range(len(ids), len(ids) + len(text))
            sees[start : start + len(text), start : start + len(text)] = True
            start += len(text)
        sees = sees.tril()
        mask = torch.cat([torch.ones(len(rows), prefix.length, dtype=torch.bool), sees], dim=1)
        hidden = self._forward(
            self.embed(rows),
            self._cache(prefix),
            position_ids=(torch.tensor(positions) + prefix.length)[None].to(self._device),
            attention_mask=mask[None, None].to(self._device),
        )
        scores = []
        start = len(ids)
        for text in texts:
            # The first token of a text is foretold by the last of `ids`, each other by its left.
            before = [len(ids) - 1, *range(start, start + len(text) - 1)]
            chances = self._head(hidden[before]).float().log_softmax(dim=1)
            scores.append(float(chances[range(len(text)), list(text)].sum()))
            start += len(text)
        return scores

    def _forward(self, rows: Tensor, cache: DynamicCache, **options: Tensor) -> Tensor:
        """Read n more embeddings [n, hidden]; the last hidden states [n, hidden]."""
        read = self._decoder(
            inputs_embeds=rows[None], past_key_values=cache, use_cache=True, **options
        )
        return read.last_hidden_state[0]

    def _cache(self, prefix: Prefix) -> DynamicCache:
        """A cache of its own that begins with a copy of the prefix."""
        from transformers import DynamicCache

        if prefix.reader is not self._identity:
            raise ValueError("this scene was made by another engine")
        return DynamicCache(ddp_cache_data=prefix.layers)
