# SPDX-License-Identifier: Apache-2.0
"""What a selector is given and what it returns; the two rules for turning scores into a selection.

A selector is a pure function on tensors: it knows no model, keeps no state and changes none of its
inputs. `docs/selectors.md` shows how to add one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from svd_vlm_ros.errors import UserError

# Scores sum to 1 over a picture. Two scores closer than this are the same score: it is far above
# what rounding in float64 leaves behind (1e-15) and far below what tells two patches apart (1e-7).
SCORE_RESOLUTION = 1e-12


@dataclass(frozen=True, eq=False)
class VisualFeatures:
    """The patches of one picture as the vision tower sees them.

    Attributes:
        patches: float [N, D], the output of the tower's layer -2 without CLS, in raster order.
        grid: rows and columns of patches; rows * columns == N.
        valid: bool [N], False where a patch shows only padding; None: all patches are valid.
    """

    patches: Tensor
    grid: tuple[int, int]
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        if self.patches.ndim != 2 or not self.patches.is_floating_point():
            raise ValueError(f"patches must be a float tensor [N, D], not {self.patches.shape}")
        if self.grid[0] * self.grid[1] != len(self):
            raise ValueError(f"a grid of {self.grid} does not hold {len(self)} patches")
        if self.valid is not None:
            if self.valid.dtype != torch.bool or self.valid.shape != (len(self),):
                raise ValueError(f"valid must be a bool tensor [{len(self)}]")
            if not bool(self.valid.any()):
                raise ValueError("no patch is valid")

    def __len__(self) -> int:
        return int(self.patches.shape[0])

    def valid_indices(self) -> Tensor:
        """The indices of the patches that show some of the picture: int64 [n], ascending."""
        if self.valid is None:
            return torch.arange(len(self), device=self.patches.device)
        return torch.nonzero(self.valid).flatten()


@dataclass(frozen=True)
class Budget:
    """How many tokens may be kept.

    Attributes:
        tokens: the number to keep, or the cap of an adaptive budget. As many as there are valid
            patches, or more, means all of them.
        energy: None for a fixed number. 0 < energy <= 1: adaptive, the fewest tokens whose scores
            (SVD-Prune: leverage) sum to it, at most `tokens`.
    """

    tokens: int
    energy: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise UserError(f"The number of visual tokens must be 1 or more, not {self.tokens}.")
        if self.energy is not None and not 0.0 < self.energy <= 1.0:
            raise UserError(f"An energy must be above 0 and at most 1, not {self.energy}.")


def make_budget(visual_tokens: int | float, token_cap: int) -> Budget:
    """A budget from a user's number. Raises `UserError` where it is out of range.

    Args:
        visual_tokens: an int is the number of tokens to keep, a float in (0, 1] an energy.
        token_cap: the most tokens that an energy may keep.
    """
    if isinstance(visual_tokens, float):
        return Budget(token_cap, visual_tokens)
    return Budget(visual_tokens)


@dataclass(frozen=True, eq=False)
class Selection:
    """What a selector kept.

    Attributes:
        indices: int64 [k], ascending (raster order), on the device of the features.
        scores: float32 [N] for display; they sum to 1 and are 0 on invalid patches.
        merge: reserved for methods that merge patches; None: the kept rows as they are.
    """

    indices: Tensor
    scores: Tensor
    merge: Tensor | None = None

    def __len__(self) -> int:
        return int(self.indices.shape[0])


class Selector(Protocol):
    """A rule that chooses patches. `name` is the one under which it is registered."""

    @property
    def name(self) -> str:
        """The name that users write."""
        ...

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Choose patches of one picture within a budget."""
        ...


def keep_highest(scores: Tensor, features: VisualFeatures, budget: Budget) -> Selection:
    """Keep the patches with the highest scores, as many as the budget asks for.

    Args:
        scores: float64 [n], one for each *valid* patch in raster order, none negative, summing
            to 1. Scores that are equal within `SCORE_RESOLUTION` are equal: the patch with the
            lower index comes first, whatever machine and library computed them.
        features: the picture, for its valid patches.
        budget: fixed or adaptive.

    Returns:
        The selection; never a patch that is not valid.
    """
    valid = features.valid_indices()
    if scores.shape != valid.shape:
        raise ValueError(f"{len(valid)} patches are valid, but {scores.shape[0]} scores are given")
    scores = scores.to(valid.device)
    order = torch.sort((scores / SCORE_RESOLUTION).round(), descending=True, stable=True).indices
    kept = valid[order[: count_to_keep(scores[order], budget)]].sort().values
    shown = torch.zeros(len(features), dtype=torch.float32, device=valid.device)
    shown[valid] = scores.to(torch.float32)
    return Selection(kept, shown)


def count_to_keep(ranked: Tensor, budget: Budget) -> int:
    """How many of n ranked scores to keep.

    Args:
        ranked: float64 [n], descending, summing to 1.
        budget: fixed: min(tokens, n). Adaptive: the fewest whose sum reaches the energy, and no
            more than `tokens`.
    """
    count = min(budget.tokens, len(ranked))
    if budget.energy is None:
        return count
    # The slack lets an energy of 1 be reached although a sum of rounded numbers may end below it.
    reached = torch.cumsum(ranked, 0) >= budget.energy - len(ranked) * SCORE_RESOLUTION
    fewest = int(torch.nonzero(reached)[0]) + 1 if bool(reached.any()) else len(ranked)
    return min(count, fewest)
