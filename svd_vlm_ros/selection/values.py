# SPDX-License-Identifier: Apache-2.0
"""What a selector is asked for and what it gives: needs, budgets, selections. No torch in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from svd_vlm_ros.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Need = Literal["class_attention", "keys", "projected", "image_text", "question", "encoder"]

NEEDS: tuple[Need, ...] = (
    "class_attention",
    "keys",
    "projected",
    "image_text",
    "question",
    "encoder",
)
"""What a selector can ask for beyond the patches; `VisualFeatures` says what each one is."""

QUESTION_NEEDS: frozenset[Need] = frozenset({"image_text", "question"})
"""Who asks for one of these looks at the question: what it keeps serves that question alone."""


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
    """A budget from a user's number. Raises `UserError` if it is out of range.

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
            the class token (column 0) and the patches (column 1 + i). None: the kept patches as
            they are.
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
