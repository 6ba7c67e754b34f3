# SPDX-License-Identifier: Apache-2.0
"""VisionZip: keep what the class token looks at, merge the rest into a few tokens of context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.selection.interface import Budget, Need, Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import first_of_highest, needed, ranked, tokens_of
from svd_vlm_ros.selection.sets import (
    class_token_attention,
    cosines,
    keep_all,
    keep_set,
    merge_matrix,
    rows_of,
)


@dataclass(frozen=True)
class VisionZip:
    """VisionZip (arXiv 2412.04467).

    Of M tokens C are contextual, M - C dominant. Dominant are the class token itself and the
    M - C - 1 patches that it looks at the most. Of the R patches that are left, in raster order,
    every (R // C)-th
    is a target; each other one joins the target whose key is most like its own (cosine, keys
    averaged over heads). A contextual token is its target **plus** the mean of those that joined.

    Our readings:

    * C = M * 5 // 32: 10 of 64, 20 of 128, 30 of 192, as the paper has them; it says nothing on
      other budgets (2 of 16, 5 of 32).
    * All tokens lie in raster order, each at its patch, contextual ones at their target. The class
      token lies at the patch it looks at the most among those that stand for nothing else; that
      patch is the one that `indices` names for it.
    * A budget that reaches all patches keeps them as they are, without the class token.
    * Of an encoder without class token the dominant tokens are the M - C patches that receive the
      most attention.
    """

    name: ClassVar[str] = "visionzip"
    needs: ClassVar[frozenset[Need]] = frozenset({"class_attention", "keys"})

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep dominant patches and the class token, merge the rest. The scores: the attention."""
        tokens = tokens_of(budget, self.name)
        looks = class_token_attention(features, self.name)
        keys = rows_of(needed(features.keys, "keys", self.name), features)
        if tokens >= len(looks):
            return keep_all(features, looks)
        contextual = tokens * 5 // 32
        classes = 0 if features.class_token is None else 1
        order = ranked(looks)
        dominant, rest = np.split(order, [tokens - contextual - classes])
        rest = np.sort(rest)
        targets = rest[:: len(rest) // contextual][:contextual] if contextual else rest[:0]
        joins = np.setdiff1d(rest, targets)
        of_cls = order[np.isin(order, joins)][:classes]

        # Each token: the patch that stands for it, in raster order.
        kept = np.sort(np.concatenate([dominant, targets, of_cls]))
        rows = [np.searchsorted(kept, np.concatenate([dominant, targets, of_cls]))]
        columns = [1 + dominant, 1 + targets, np.zeros(classes, dtype=np.int64)]
        weights = [np.ones(tokens)]
        if contextual:
            nearest = first_of_highest(cosines(keys[joins], keys[targets]))
            joined = np.bincount(nearest, minlength=contextual)
            rows.append(np.searchsorted(kept, targets[nearest]))
            columns.append(1 + joins)
            weights.append(1.0 / joined[nearest])
        merge = merge_matrix(
            features, np.concatenate(rows), np.concatenate(columns), np.concatenate(weights), tokens
        )
        return keep_set(features, kept, looks, merge)
