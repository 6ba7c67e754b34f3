# SPDX-License-Identifier: Apache-2.0
"""Embedded tokens on their way into a language model, with all that travels with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Embedded tokens in a row, text or visual ones, and where they stand.

    Attributes:
        rows: float [n, hidden].
        offsets: int64 [n], the position id of each behind the first one; [3, n] if an image's
            tokens have one in time, down and across (M-RoPE); None: 0 to n - 1.
        span: position ids that they take up: what follows stands behind so many.
        planes: float [p, n, hidden], what is added to the rows behind each of the first p layers
            (DeepStack); None: nothing.
        mutual: bool [n], those of an image that see each other, before and behind alike; None: each
            sees itself and all before it.
    """

    rows: Tensor
    offsets: Tensor | None
    span: int
    planes: Tensor | None = None
    mutual: Tensor | None = None

    @classmethod
    def in_order(cls, rows: Tensor) -> Tokens:
        """Each at the position behind the one before it."""
        return cls(rows, None, len(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def like(self, other: Tokens) -> Tokens:
        """These in the dtype of others."""
        return replace(self, rows=self.rows.to(other.rows.dtype))

    def followed_by(self, other: Tokens) -> Tokens:
        """These and others behind them."""
        offsets = None
        if self.offsets is not None or other.offsets is not None:
            offsets = join_positions([self.positions(), self.span + other.positions()])
        return join_tokens([self, other], offsets, self.span + other.span)

    def positions(self) -> Tensor:
        """The offsets, written out: int64 [n] or [3, n]."""
        if self.offsets is not None:
            return self.offsets
        return torch.arange(len(self.rows), device=self.rows.device)


def join_positions(parts: Sequence[Tensor]) -> Tensor:
    """Position ids behind each other, [n] or, if any of them has three axes, [3, n]."""
    if any(part.ndim == 2 for part in parts):
        parts = [part if part.ndim == 2 else part.expand(3, -1) for part in parts]
    return torch.cat(list(parts), dim=-1)


def join_tokens(parts: Sequence[Tokens], offsets: Tensor | None, span: int) -> Tokens:
    """Tokens behind each other in one row, at positions that are not their own any more."""
    rows = torch.cat([part.rows for part in parts])
    return Tokens(rows, offsets, span, _join_planes(parts), _join_mutual(parts))


def _join_planes(parts: Sequence[Tokens]) -> Tensor | None:
    """The planes [p, n, hidden] of tokens behind each other, zero if they have none; None: none."""
    depth = max(0 if part.planes is None else len(part.planes) for part in parts)
    if not depth:
        return None
    hidden = parts[0].rows.shape[1]
    none = [part.rows.new_zeros(depth, len(part), hidden) for part in parts]
    for part, rows in zip(parts, none, strict=True):
        if part.planes is not None:
            rows[: len(part.planes)] = part.planes
    return torch.cat(none, dim=1)


def _join_mutual(parts: Sequence[Tokens]) -> Tensor | None:
    """Which of tokens behind each other see each other, bool [n]; None: none do."""
    if all(part.mutual is None for part in parts):
        return None
    return torch.cat(
        [
            torch.zeros(len(part), dtype=torch.bool, device=part.rows.device)
            if part.mutual is None
            else part.mutual
            for part in parts
        ]
    )
