# SPDX-License-Identifier: Apache-2.0
"""The language model in three uses: `read` a prefix once, `write` answers behind it, `score` texts.

All three are greedy, in one thread, and over one `Workspace`, which keeps the prefix that was asked
last: asking one scene again and again copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from svd_vlm_ros.models.language.cache import Prefix
from svd_vlm_ros.models.language.compiled import CompiledStep
from svd_vlm_ros.models.language.decoder import Between, Decoder
from svd_vlm_ros.models.language.pruning import Pruning
from svd_vlm_ros.models.language.writer import Writer, block_mask
from svd_vlm_ros.selection.inside import InsideSelector
from svd_vlm_ros.selection.interface import Budget

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

# A question makes room for so many tokens of its answer at first; more is made as it grows.
ROOM = 256

__all__ = ["LanguageModel", "Prefix"]


class LanguageModel:
    """Llama over a key-value cache of its own."""

    def __init__(self, model: LlavaForConditionalGeneration, compiled: bool | str = False) -> None:
        """Take over a model's language part; its weights are shared, not copied.

        Args:
            model: in evaluation mode, on its device.
            compiled: whether single answers are written by a compiled step; a string is the
                backend of `torch.compile` for it.
        """
        self.decoder = Decoder(model)
        self._head = model.lm_head
        self._cache = self.decoder.workspace()
        self._step: CompiledStep | None = None
        if compiled:
            backend = compiled if isinstance(compiled, str) else None
            self._step = CompiledStep(self.decoder, self._head, backend)
        self._identity = object()  # not the model itself: a prefix must not keep it in memory

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return len(self.decoder.layers)

    def embed(self, ids: Sequence[int]) -> Tensor:
        """The embeddings [n, hidden] of n token ids."""
        return self.decoder.embedding(torch.tensor(ids, device=self.decoder.device).long())

    def read(self, rows: Tensor) -> Prefix:
        """Read the embeddings [n, hidden] of one or more tokens."""
        prefix = self.later(rows, None)
        self._begin(None, len(rows))
        self.decoder.read(rows, self._cache)
        self._cache.settle(prefix)
        return prefix

    def later(self, rows: Tensor, after: Prefix | None) -> Prefix:
        """What will have been read with the first question behind it; nothing is computed.

        A pass over few tokens takes nearly as long as one over twice as many, since each reads all
        weights: a picture of 16 tokens is all but free together with a question.

        Args:
            rows: embeddings [n, hidden], text and picture alike.
            after: what was read before them. It is left as it is.

        Returns:
            All of it, `after` among it.
        """
        length = len(rows) + (after.length if after else 0)
        return Prefix((), length, self._identity, (after, rows))

    def pruning(self, selector: InsideSelector, budget: Budget, visual_tokens: int) -> Pruning:
        """What drops visual tokens while one question is read, for `write` and `score`.

        Raises:
            UserError: the budget can't be reached.
        """
        return Pruning(selector, budget, visual_tokens, self.decoder, self._cache)

    def write(
        self,
        prefix: Prefix,
        questions: Sequence[Tensor],
        limits: Sequence[int],
        between: Between | None = None,
    ) -> Writer:
        """Answer questions behind a prefix, all in one batch.

        The writer must be done before this model is used again: they share a workspace.

        Args:
            prefix: is left as it is, but for being read with the questions where it was not.
            questions: the embeddings [n, hidden] of each.
            limits: the most tokens of each answer.
            between: may drop tokens of a single question; see `Decoder.read`.
        """
        room = sum(map(len, questions)) + sum(min(ROOM, limit) for limit in limits)
        lead = self._begin(prefix, room)
        return Writer(
            *(self.decoder, self._head, self._cache, questions, limits, between, self._step),
            lead=None if lead is None else prefix,
        )

    def score(
        self,
        prefix: Prefix,
        asked: Sequence[tuple[Tensor, Sequence[Sequence[int]]]],
        between: Between | None = None,
    ) -> list[list[float]]:
        """The log-probabilities of texts behind questions, all in one forward pass.

        Questions and texts lie behind each other in one row. A mask lets each question see the
        prefix and itself, each text also its question, and each text begins at the position behind
        it, so that the result is that of a pass for each text alone, while prefix and questions
        are read once and are held once.

        Args:
            prefix: as in `write`.
            asked: for each question its embeddings [n, hidden], and the token ids of its texts,
                one or more of one or more tokens.
            between: may drop tokens of a single question, which is then read in a pass of its own.

        Returns:
            For each question and text the sum of the log-probabilities of the text's tokens.
        """
        texts = [list(texts) for _, texts in asked]
        # What follows a text's last token is not asked for, so it need not be read.
        words = [self.embed([token for text in some for token in text[:-1]]) for some in texts]
        questions = [question for question, _ in asked]
        lead = self._begin(prefix, sum(map(len, questions)) + sum(map(len, words)))
        if between is not None:
            (question,) = questions
            last = self.decoder.read(question, self._cache, between=between)[-1:]
            layout = _Layout([0], texts, self.decoder)
            more = any(len(some) for some in words)
            hidden = torch.cat([self._read_layout(words, layout), last]) if more else last
        else:
            ahead = 0 if lead is None else len(lead)
            layout = _Layout([len(question) for question in questions], texts, self.decoder, ahead)
            rows = [part for pair in zip(questions, words, strict=True) for part in pair]
            hidden = self._read_layout(rows if lead is None else [lead, *rows], layout)
            if lead is not None:
                self._cache.settle(prefix)
        before = sorted(set(layout.before))
        place = {row: index for index, row in enumerate(before)}
        chances = self._head(hidden[before]).float().log_softmax(dim=1)
        tokens = [token for some in texts for text in some for token in text]
        told = iter(chances[[place[row] for row in layout.before], tokens].tolist())
        return [[sum(next(told) for _ in text) for text in some] for some in texts]

    def _read_layout(self, rows: Sequence[Tensor], layout: _Layout) -> Tensor:
        return self.decoder.read(
            torch.cat(list(rows)), self._cache, offsets=layout.offsets, mask=layout.mask
        )

    def _begin(self, prefix: Prefix | None, room: int) -> Tensor | None:
        """Hold a prefix, or what was read of it: then the rest [n, hidden] is to be read now."""
        if prefix is None or prefix.unread is None:
            lead, held = None, prefix
        else:
            held, lead = prefix.unread
            room += len(lead)
        if prefix is not None and prefix.reader is not self._identity:
            raise ValueError("this scene was made by another engine")
        self._cache.begin(held, room)
        return lead


class _Layout:
    """How questions with their texts lie behind each other in one row, and who sees whom.

    Attributes:
        offsets: int64 [n], the position of each token.
        mask: [n, n], 0 or -inf.
        before: for each token of each text the row that foretells it; n stands for one that was
            read before.
    """

    def __init__(
        self,
        questions: Sequence[int],
        texts: Sequence[Sequence[Sequence[int]]],
        decoder: Decoder,
        ahead: int = 0,
    ) -> None:
        """Lay out.

        Args:
            questions: the length of each question; 0 where a single one was read before.
            texts: the tokens of each question's texts.
            decoder: for dtype and device.
            ahead: tokens in front of the questions that all of them see.
        """
        pairs = list(zip(questions, texts, strict=True))
        blocks = [n for length, some in pairs for n in (length, *(len(text) - 1 for text in some))]
        total = ahead + sum(blocks)
        mask = block_mask(blocks, decoder, ahead)
        offsets = list(range(ahead))
        self.before: list[int] = []
        for length, some in pairs:
            question = len(offsets)
            offsets += range(ahead, ahead + length)
            for text in some:
                start, rows = len(offsets), len(text) - 1
                offsets += range(ahead + length, ahead + length + rows)
                mask[start : start + rows, question : question + length] = 0.0
                # The first token of a text is foretold by the question's last one.
                first = question + length - 1 if length else total
                self.before += [first, *range(start, start + rows)]
        self.offsets = torch.tensor(offsets, device=decoder.device)
        self.mask = mask
