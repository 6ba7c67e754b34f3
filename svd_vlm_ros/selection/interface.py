# SPDX-License-Identifier: Apache-2.0
"""What a selector is given and what it returns; the two rules for turning scores into a selection.

What it is given of a picture, `VisualFeatures`, is in `selection/features.py`.

A selector is a pure function on tensors: it knows no model, keeps no state and changes none of its
inputs. (Where `svd` remembers the last picture, `warm_start`, what it keeps does not depend on it.)
`docs/selectors.md` shows how to add one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.features import (
    NEEDS,
    QUESTION_NEEDS,
    Encoder,
    ImageText,
    Need,
    VisualFeatures,
)

__all__ = [
    "NEEDS",
    "QUESTION_NEEDS",
    "Budget",
    "Encoder",
    "ImageText",
    "Need",
    "Selection",
    "Selector",
    "VisualFeatures",
    "count_to_keep",
    "keep_highest",
    "looks_at_question",
    "make_budget",
]

# Scores sum to 1 over a picture. Two scores closer than this are the same score: it is far above
# what rounding in float64 leaves behind (1e-15) and far below what tells two patches apart (1e-7).
SCORE_RESOLUTION = 1e-12


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
    """What a selector kept: k tokens, in the order of their patches.

    Attributes:
        indices: int64 [k], ascending (raster order), on the device of the features: the kept
            patches. Of a method that merges: for each token the patch that stands for it.
        scores: float32 [N] for display; they sum to 1 and are 0 on invalid patches.
        merge: of a method that merges: sparse float32 [k, 1 + N], row t is how token t is made of
            CLS (column 0) and the patches (column 1 + i). None: the kept patches as they are.
        features: of a method that has made the tokens itself, inside the encoder: float [k, D].
            They go before `merge`, which then tells what they were made of, for display.
    """

    indices: Tensor
    scores: Tensor
    merge: Tensor | None = None
    features: Tensor | None = None

    def __post_init__(self) -> None:
        count, patches = len(self), int(self.scores.shape[0])
        if self.merge is not None and self.merge.shape != (count, 1 + patches):
            raise ValueError(f"merge must be [{count}, {1 + patches}], not {self.merge.shape}")
        if self.features is not None and len(self.features) != count:
            raise ValueError(f"{len(self.features)} rows of features for {count} tokens")

    def __len__(self) -> int:
        return int(self.indices.shape[0])


class Selector(Protocol):
    """A rule that chooses patches. `name` is the one under which it is registered."""

    @property
    def name(self) -> str:
        """The name that users write."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """What it looks at beyond the patches, from `NEEDS`; that is computed, and no more."""
        ...

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Choose patches of one picture within a budget."""
        ...


def looks_at_question(selector: Selector) -> bool:
    """Whether what it keeps serves one question only, so that a Scene can't be shared."""
    return bool(selector.needs & QUESTION_NEEDS)


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
