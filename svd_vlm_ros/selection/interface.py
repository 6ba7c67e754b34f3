# SPDX-License-Identifier: Apache-2.0
"""The three kinds of selectors, and the two rules for turning scores into a selection.

    FeatureSelector  before the language model: from features to a selection
    EncoderSelector  inside the vision encoder: also runs its layers, merging as it goes
    LayerSelector    inside the language model (`selection/inside`): drops tokens between its layers

Their protocols are in `selection/kinds.py`, which imports no torch. What they are given of an
image, `VisualFeatures`, is in `selection/features.py`; what they are asked for and give, `Budget`
and `Selection`, in `selection/values.py`.

A selector is a pure function on tensors: it knows no model, keeps no state and changes none of its
inputs. (If `svd` remembers the last image, `warm_start`, what it keeps does not depend on it.)
`docs/selectors.md` shows how to add one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svd_vlm_ros.selection.features import Encoder, ImageText, VisualFeatures
from svd_vlm_ros.selection.kinds import EncoderSelector, FeatureSelector, looks_at_question
from svd_vlm_ros.selection.ranking import SCORE_RESOLUTION
from svd_vlm_ros.selection.values import (
    NEEDS,
    QUESTION_NEEDS,
    Budget,
    Need,
    Selection,
    make_budget,
)

__all__ = [
    "NEEDS",
    "QUESTION_NEEDS",
    "Budget",
    "Encoder",
    "EncoderSelector",
    "FeatureSelector",
    "ImageText",
    "Need",
    "Selection",
    "VisualFeatures",
    "count_to_keep",
    "keep_highest",
    "looks_at_question",
    "make_budget",
]


def keep_highest(scores: Tensor, features: VisualFeatures, budget: Budget) -> Selection:
    """Keep the patches with the highest scores, as many as the budget asks for.

    Args:
        scores: float64 [n], one for each *valid* patch in raster order, none negative, summing
            to 1. Scores that are equal within `SCORE_RESOLUTION` are equal: the patch with the
            lower index comes first, whatever machine and library computed them.
        features: the image, for its valid patches.
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
