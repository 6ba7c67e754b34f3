# SPDX-License-Identifier: Apache-2.0
"""The language model in three uses: `prefill` a prefix, `write` answers behind it, `score` texts.

All three are greedy, in one thread, and over one `Workspace`, which keeps the prefix that was asked
last: asking one scene again and again copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models import interface
from svd_vlm_ros.models.language.cache import Prefix
from svd_vlm_ros.models.language.decoder import Decoder, DecoderParts, Reader
from svd_vlm_ros.models.language.pruning import Pruning
from svd_vlm_ros.models.language.writer import Writer, block_mask
from svd_vlm_ros.models.tokens import Tokens, join_positions, join_tokens
from svd_vlm_ros.selection.inside import LayerSelector
from svd_vlm_ros.selection.values import Budget

# A question makes room for so many tokens of its answer at first; more is made as it grows.
ROOM = 256

__all__ = ["CachedLanguageModel", "Prefix"]


class CachedLanguageModel:
    """A decoder over a KV cache of its own: `models.interface.LanguageModel`."""

    def __init__(self, parts: DecoderParts | Reader) -> None:
        """Take over a model's language part; its weights are shared, not copied.

        Args:
            parts: in evaluation mode, on their device, for the loop of our own; or what reads in
                its place.
        """
        self.decoder: Reader = Decoder(parts) if isinstance(parts, DecoderParts) else parts
        self._head = self.decoder.head
        self._cache = self.decoder.workspace()
        self._identity = object()  # not the model itself: a prefix must not keep it in memory

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return len(self.decoder.layers)

    def embed(self, ids: Sequence[int]) -> Tokens:
        """The embeddings [n, hidden] of n token ids, in order."""
        return Tokens.in_order(self._rows(ids))

    def prefill(self, tokens: Tokens) -> Prefix:
        """Read one or more tokens."""
        prefix = Prefix(len(tokens), tokens.span, self._identity, (None, tokens))
        self._cache.begin(None, len(tokens))
        self.decoder.read(tokens, self._cache)
        self._cache.copy_to(prefix)
        return prefix

    def extend(self, prefix: interface.Prefix, tokens: Tokens) -> Prefix:
        """A prefix and tokens behind it, read with the first question; nothing is computed.

        A pass over few tokens takes nearly as long as one over twice as many, since each reads all
        weights: an image of 16 tokens is all but free together with a question.

        Args:
            prefix: what was read before them. It is left as it is.
            tokens: text and visual ones alike, in any dtype.
        """
        tokens = replace(tokens, rows=tokens.rows.to(self.decoder.dtype))
        mine = self._mine(prefix)
        length, end = mine.length + len(tokens), mine.end + tokens.span
        return Prefix(length, end, self._identity, (mine, tokens))

    def pruning(self, selector: LayerSelector, budget: Budget, visual: int) -> Pruning:
        """What drops visual tokens while one question is read, for `write` and `score`.

        Raises:
            UserError: the budget can't be reached.
        """
        if not isinstance(self.decoder, Decoder):
            raise UserError(
                f"The selector '{selector.name}' can't act between this model's layers."
            )
        return Pruning(selector, budget, visual, self.decoder, self._cache)

    def write(
        self,
        prefix: interface.Prefix,
        questions: Sequence[Tokens],
        limits: Sequence[int],
        pruning: interface.TokenPruning | None = None,
    ) -> Writer:
        """Answer questions behind a prefix, all in one batch.

        The writer must be done before this model is used again: they share a workspace.

        Args:
            prefix: is left as it is, or filled with the first question if it is unread.
            questions: each may begin with visual tokens of its own.
            limits: the most tokens of each answer.
            pruning: may drop tokens of a single question; see `Decoder.read`.
        """
        room = sum(map(len, questions)) + sum(min(ROOM, limit) for limit in limits)
        mine, between = self._mine(prefix), _own(pruning)
        lead = self._begin(mine, room)
        return Writer(
            *(self.decoder, self._head, self._cache, questions, limits, between),
            lead=None if lead is None else mine,
        )

    def score(
        self,
        prefix: interface.Prefix,
        asked: Sequence[tuple[Tokens, Sequence[Sequence[int]]]],
        pruning: interface.TokenPruning | None = None,
    ) -> list[list[float]]:
        """The log-probabilities of texts behind questions, all in one forward pass.

        Questions and texts lie behind each other in one row. A mask lets each question see the
        prefix and itself, each text also its question, and each text begins at the position behind
        it, so that the result is that of a pass for each text alone, while prefix and questions
        are read once and are held once.

        Args:
            prefix: as in `write`.
            asked: for each question its tokens, and the token ids of its texts, one or more of one
                or more tokens.
            pruning: may drop tokens of a single question, which is then read in a pass of its own.

        Returns:
            For each question and text the sum of the log-probabilities of the text's tokens.
        """
        texts = [list(texts) for _, texts in asked]
        # What follows a text's last token is not asked for, so it need not be read.
        words = [self._rows([token for text in some for token in text[:-1]]) for some in texts]
        questions = [question for question, _ in asked]
        mine, between = self._mine(prefix), _own(pruning)
        lead = self._begin(mine, sum(map(len, questions)) + sum(map(len, words)))
        if between is not None:
            (question,) = questions
            last = self.decoder.read(question, self._cache, between=between)[-1:]
            layout = _Layout([None], texts, self.decoder)
            more = any(len(some) for some in words)
            hidden = last
            if more:
                parts = [Tokens.in_order(some) for some in words]
                hidden = torch.cat([self._read_layout(parts, layout), last])
        else:
            layout = _Layout(questions, texts, self.decoder, lead)
            parts = [] if lead is None else [lead]
            for question, some in zip(questions, words, strict=True):
                parts += [question, Tokens.in_order(some)]
            hidden = self._read_layout(parts, layout)
            if lead is not None:
                self._cache.copy_to(mine)
        before = sorted(set(layout.before))
        index_of = {row: index for index, row in enumerate(before)}
        logs = self._head(hidden[before]).float().log_softmax(dim=1)
        tokens = [token for some in texts for text in some for token in text]
        found = iter(logs[[index_of[row] for row in layout.before], tokens].tolist())
        return [[sum(next(found) for _ in text) for text in some] for some in texts]

    def _rows(self, ids: Sequence[int]) -> Tensor:
        rows: Tensor = self.decoder.embedding(torch.tensor(ids, device=self.decoder.device).long())
        return rows

    def _read_layout(self, parts: Sequence[Tokens], layout: _Layout) -> Tensor:
        tokens = join_tokens(parts, layout.offsets, 0)
        return self.decoder.read(tokens, self._cache, mask=layout.mask)

    def _mine(self, prefix: interface.Prefix) -> Prefix:
        """A prefix of this very language model. `ValueError`: it is another's."""
        if not isinstance(prefix, Prefix) or prefix.reader is not self._identity:
            raise ValueError("this scene was made by another engine")
        return prefix

    def _begin(self, prefix: Prefix, room: int) -> Tokens | None:
        """Hold a prefix, or what was read of it: then the rest is to be read now."""
        if prefix.unread is None:
            self._cache.begin(prefix, room)
            return None
        held, lead = prefix.unread
        self._cache.begin(held, room + len(lead))
        return lead


class _Layout:
    """How questions with their texts lie behind each other in one row, and who sees whom.

    Attributes:
        offsets: int64 [n] or [3, n], the position of each token.
        mask: [n, n], 0 or -inf.
        before: for each token of each text the row whose logits predict it; n stands for one that
            was read before.
    """

    def __init__(
        self,
        questions: Sequence[Tokens | None],
        texts: Sequence[Sequence[Sequence[int]]],
        decoder: Reader,
        lead: Tokens | None = None,
    ) -> None:
        """Lay out.

        Args:
            questions: None: a single one that was read before.
            texts: the tokens of each question's texts.
            decoder: for dtype and device.
            lead: tokens in front of the questions that all of them see.
        """
        lengths = [0 if question is None else len(question) for question in questions]
        pairs = list(zip(lengths, texts, strict=True))
        blocks = [n for length, some in pairs for n in (length, *(len(text) - 1 for text in some))]
        ahead = 0 if lead is None else len(lead)
        total = ahead + sum(blocks)
        mask = block_mask(blocks, decoder, ahead)
        offsets = [] if lead is None else [lead.positions()]
        first_free = 0 if lead is None else lead.span
        self.before: list[int] = []
        start = ahead
        for question, (length, some) in zip(questions, pairs, strict=True):
            start_of_question, end = start, first_free
            if question is not None:
                offsets.append(first_free + question.positions())
                start, end = start + length, end + question.span
            for text in some:
                rows = len(text) - 1
                offsets.append(torch.arange(end, end + rows, device=decoder.device))
                mask[start : start + rows, start_of_question : start_of_question + length] = 0.0
                # The first token of a text is predicted by the question's last one.
                first = start_of_question + length - 1 if length else total
                self.before += [first, *range(start, start + rows)]
                start += rows
        self.offsets = join_positions(offsets)
        self.mask = mask


def _own(pruning: interface.TokenPruning | None) -> Pruning | None:
    """A pruning from `CachedLanguageModel.pruning`, as what the decoder calls."""
    assert pruning is None or isinstance(pruning, Pruning)
    return pruning
