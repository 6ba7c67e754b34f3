# SPDX-License-Identifier: Apache-2.0
"""Rules on plain numbers that the methods of all runtimes share: ties, ranks, what was asked for.

NumPy alone, no torch.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.values import Budget, Need

# Relative to the largest value of a comparison: what is closer is a tie, and the lower index wins.
# Rounding in float64 stays a hundred times below it.
TIE = 1e-12

# Scores sum to 1 over an image. Two scores closer than this are the same score: it is far above
# what rounding in float64 leaves behind (1e-15) and far below what tells two patches apart (1e-7).
SCORE_RESOLUTION = 1e-12

T = TypeVar("T")


def needed(value: T | None, need: Need, selector: str) -> T:
    """What a selector asked for. `ValueError`: whoever made the features left it out."""
    if value is None:
        raise ValueError(f"the selector '{selector}' needs '{need}', which these features lack")
    return value


def tokens_of(budget: Budget, selector: str) -> int:
    """The number of a fixed budget. `UserError`: it is adaptive, and these methods have no share
    of anything that could be reached.
    """
    if budget.energy is not None:
        raise UserError(
            f"The selector '{selector}' chooses a set as a whole and knows no share of energy: "
            f"give it a number of visual tokens, not {budget.energy}."
        )
    return budget.tokens


def ranked(values: np.ndarray) -> np.ndarray:
    """The places of values from the highest to the lowest, of equal ones the lower place first."""
    scale = float(np.abs(values).max()) * TIE
    return np.argsort(-np.round(values / scale) if scale > 0.0 else -values, kind="stable")


def first_of_highest(values: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Along the last axis the lowest place among the highest values.

    Args:
        values: float64 [..., n].
        scale: of the comparison: what lies within `TIE` of it is a tie.
    """
    highest: np.ndarray = values >= values.max(axis=-1, keepdims=True) - TIE * scale
    return np.asarray(highest.argmax(axis=-1))
