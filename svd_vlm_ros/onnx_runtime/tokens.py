# SPDX-License-Identifier: Apache-2.0
"""Embedded tokens on their way into the language model, in NumPy; see `models.tokens`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Tokens:
    """Embedded tokens in a row, text or visual ones, and where they stand.

    Attributes:
        rows: float [n, hidden].
        offsets: int64 [n], the position id of each behind the first one; None: 0 to n - 1.
        span: position ids that they take up: what follows stands behind so many.
    """

    rows: np.ndarray
    offsets: np.ndarray | None
    span: int

    @classmethod
    def in_order(cls, rows: np.ndarray) -> Tokens:
        """Each at the position behind the one before it."""
        return cls(rows, None, len(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def like(self, other: Tokens) -> Tokens:
        """These in the dtype of others."""
        return replace(self, rows=self.rows.astype(other.rows.dtype, copy=False))

    def followed_by(self, other: Tokens) -> Tokens:
        """These and others behind them."""
        offsets = None
        if self.offsets is not None or other.offsets is not None:
            offsets = np.concatenate([self.positions(), self.span + other.positions()])
        rows = np.concatenate([self.rows, other.rows])
        return Tokens(rows, offsets, self.span + other.span)

    def positions(self) -> np.ndarray:
        """The offsets, written out: int64 [n]."""
        return np.arange(len(self.rows)) if self.offsets is None else self.offsets
