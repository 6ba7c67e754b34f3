# SPDX-License-Identifier: Apache-2.0
"""What `svd` and `svd-cover` are in every runtime: their options' ranges and their resolutions.

NumPy alone, no torch.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.values import Budget

Rank = Literal["energy", "budget"]

# Relative to the sum of all squared singular values: what is smaller is rounding, not signal.
ENERGY_RESOLUTION = 1e-12
# What a sum of rounded shares may lack of the share that it stands for.
SHARE_RESOLUTION = 1e-9
# Relative to the energy of the patches: differences below it are rounding, and all patches alike.
CONTRAST_RESOLUTION = 1e-12


def check_svd(rank: str, rank_energy: float) -> None:
    """Raise `UserError` if an option of `svd` is out of range."""
    if rank not in get_args(Rank):
        raise UserError(f"The svd selector's rank is 'energy' or 'budget', not '{rank}'.")
    if not 0.0 < rank_energy <= 1.0:
        raise UserError(
            f"The svd selector's rank_energy must be above 0 and at most 1, not {rank_energy}."
        )


def check_cover(beta: float, ridge: float) -> None:
    """Raise `UserError` if an option of `svd-cover` is out of range."""
    if not 0.0 <= beta <= 1.0:
        raise UserError(f"The svd-cover selector's beta must be from 0 to 1, not {beta}.")
    if not 0.0 < ridge < float("inf"):
        raise UserError(f"The svd-cover selector's ridge must be above 0, not {ridge}.")


def count_to_cover(gains: np.ndarray, budget: Budget) -> int:
    """How many of the chosen it takes to cover the share of an adaptive budget; all of a fixed one.

    Args:
        gains: float64 [k], what each of them adds, in their order.
        budget: fixed or adaptive.
    """
    if budget.energy is None:
        return len(gains)
    reached = np.cumsum(gains) >= budget.energy - SHARE_RESOLUTION
    return int(reached.argmax()) + 1 if reached.any() else len(gains)
