# SPDX-License-Identifier: Apache-2.0
"""Greedy writing of one or more answers at once, a token of each in every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svd_vlm_ros.models.language.cache import Prefix, Workspace
from svd_vlm_ros.models.language.decoder import Between, Reader
from svd_vlm_ros.models.tokens import Tokens, join_positions, join_tokens


@dataclass(frozen=True, eq=False)
class _Step:
    """A step that the device was asked for: `found` is [2, r], the next ids of `rows` and their
    probabilities.
    """

    rows: tuple[int, ...]
    tokens: Tensor
    found: Tensor
    arrived: torch.cuda.Event | None


class Writer:
    """Answers to several questions behind what a workspace holds, all written in one batch.

    The questions lie behind each other in one row and share what stands before them; a mask lets
    each see its own tokens only, and each counts its positions from there. So nothing is padded or
    held twice, and a row that has ended costs nothing more. One question needs no mask.

    On a CPU nothing is computed ahead. On CUDA the step that follows is asked for before the
    tokens of this one are looked at, so that the device does not wait for the host to decide
    whether to go on; when it decides to stop, that step is thrown away.
    """

    def __init__(
        self,
        decoder: Reader,
        head: nn.Module,
        cache: Workspace,
        questions: Sequence[Tokens],
        limits: Sequence[int],
        between: Between | None = None,
        ahead: bool | None = None,
        lead: Prefix | None = None,
    ) -> None:
        """Nothing is computed before the first step.

        Args:
            decoder, head: of the model.
            cache: holds what stands before the questions.
            questions: the tokens of each.
            limits: the most tokens of each answer.
            between: may drop tokens of a question; of a single one only.
            ahead: see above; None: as the device asks for.
            lead: a prefix that is read in front of the questions, in the same pass; not together
                with `between`.
        """
        if between is not None and (len(questions) != 1 or lead is not None):
            raise ValueError("tokens can be dropped from one question at a time")
        self._decoder, self._head, self._cache = decoder, head, cache
        self._questions, self._limits = questions, limits
        self._between, self._lead = between, lead
        cuda = decoder.device.type == "cuda"
        self._ahead = cuda if ahead is None else ahead
        self._asked = [0] * len(questions)  # tokens of each that were asked for
        self._held = 0  # slots in front of the questions
        self._pending: _Step | None = None
        self._last = torch.zeros(len(questions), dtype=torch.int64, device=decoder.device)
        self._sees: Tensor | None = None  # [questions, slots] 0 or -inf: of the slots behind `held`

    def step(self, rows: Sequence[int]) -> list[tuple[int, float]]:
        """Write one more token of some answers; the first step reads the questions.

        Args:
            rows: which ones, ascending; a row that is left out once has ended.

        Returns:
            For each the next token and the probability that the model gave it.
        """
        step = self._pending or self._ask(tuple(rows))
        self._pending = None
        if self._ahead:
            more = tuple(row for row in rows if self._asked[row] < self._limits[row])
            self._last[list(step.rows)] = step.tokens
            self._pending = self._ask(more) if more else None
        if step.arrived is not None:
            step.arrived.synchronize()
        tokens, probabilities = step.found.tolist()
        pairs = zip(map(int, tokens), probabilities, strict=True)
        found = dict(zip(step.rows, pairs, strict=True))
        if not self._ahead:
            self._last[list(step.rows)] = step.tokens
        return [found[row] for row in rows]

    def _ask(self, rows: tuple[int, ...]) -> _Step:
        hidden = self._next(rows) if any(self._asked) else self._first(rows)
        tokens, probabilities = greedy(self._head(hidden))
        for row in rows:
            self._asked[row] += 1
        found = torch.stack((tokens.double(), probabilities.double()))
        arrived = None
        if found.is_cuda:
            # The copy waits for this step alone, not for one that is asked for meanwhile.
            host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            found = host.copy_(found, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return _Step(rows, tokens, found, arrived)

    def _first(self, rows: tuple[int, ...]) -> Tensor:
        """Read the questions; the last hidden states [r, hidden] of some."""
        lead = None
        if self._lead is not None and self._lead.unread is not None:
            lead = self._lead.unread[1]
        ahead = 0 if lead is None else len(lead)
        self._held = self._cache.lengths[0] + ahead
        if len(self._questions) == 1:
            one = self._questions[0] if lead is None else lead.followed_by(self._questions[0])
            hidden = self._decoder.read(one, self._cache, between=self._between)
            self._fill()
            return hidden[-1:]
        questions = self._questions
        parts = list(questions) if lead is None else [lead, *questions]
        lengths = [len(question) for question in questions]
        block = block_mask(lengths, self._decoder, ahead)
        start = 0 if lead is None else lead.span
        offsets = [start + question.positions() for question in questions]
        if lead is not None:
            offsets.insert(0, lead.positions())
        together = join_tokens(parts, join_positions(offsets), 0)
        hidden = self._decoder.read(together, self._cache, mask=block)
        self._fill()
        ends = ahead + torch.tensor(lengths).cumsum(0) - 1
        room = sum(lengths) + sum(self._limits)
        self._sees = block.new_full((len(lengths), room), -torch.inf)
        # The last token of each sees all of its own.
        self._sees[:, : sum(lengths)] = block[ends, ahead:]
        spans = [question.span for question in questions]
        self._begins = start + torch.tensor(spans, device=block.device)
        return hidden[ends[list(rows)]]

    def _fill(self) -> None:
        if self._lead is not None:
            self._cache.copy_to(self._lead)
            self._lead = None

    def _next(self, rows: tuple[int, ...]) -> Tensor:
        """Read the token that was written last of some answers; their hidden states [r, hidden]."""
        if self._sees is None:
            last = Tokens.in_order(self._decoder.embedding(self._last))
            return self._decoder.read(last, self._cache)
        chosen = torch.tensor(rows, device=self._last.device)
        start = self._cache.lengths[0] - self._held
        slots = start + torch.arange(len(rows), device=chosen.device)
        self._sees[chosen, slots] = 0.0
        # The rows go on together, so that all have written as many tokens.
        offsets = self._begins[chosen] + (self._asked[rows[0]] - 1)
        tokens = Tokens(self._decoder.embedding(self._last[chosen]), offsets, 0)
        mask = self._sees[chosen, : start + len(rows)]
        return self._decoder.read(tokens, self._cache, mask=mask)


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest tokens, int64 [r], of logits [r, vocabulary], and their probabilities."""
    highest, tokens = logits.float().max(dim=-1)
    return tokens, (highest - logits.float().logsumexp(dim=-1)).exp()


def block_mask(lengths: Sequence[int], decoder: Reader, ahead: int = 0) -> Tensor:
    """The mask of texts that lie behind each other: each token sees its own text up to itself.

    Args:
        lengths: of the texts.
        decoder: for dtype and device.
        ahead: tokens in front of the texts, of a first one that all others see.

    Returns:
        [n, n] for n tokens of all texts, 0 or -inf, in the decoder's dtype and on its device.
    """
    total = ahead + sum(lengths)
    mask = torch.full((total, total), -torch.inf, dtype=decoder.dtype)
    mask[ahead:, :ahead] = 0.0
    start = 0
    for length in (ahead, *lengths):
        block = torch.full((length, length), -torch.inf).triu(1)
        mask[start : start + length, start : start + length] = block
        start += length
    return mask.to(decoder.device)
