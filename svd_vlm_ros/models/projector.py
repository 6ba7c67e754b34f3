# SPDX-License-Identifier: Apache-2.0
"""From vision features to the language model's embeddings, a row for each kept token."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from svd_vlm_ros.models.interface import Tokens
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.tokens import token_rows
from svd_vlm_ros.selection.values import Selection


class Projector:
    """Projects the kept tokens only, of a family without markers: its cost falls with the budget.

    See `interface.Connector`.
    """

    def __init__(self, project: Callable[[Tensor], Tensor], original: bool = False) -> None:
        """Take what projects rows [k, D]; `original`: the kept tokens keep their position ids."""
        self._project, self._original = project, original

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tokens:
        """Return the visual tokens [k, hidden] of what was kept, in the order of its patches."""
        as_they_are = selection.merge is None and selection.features is None
        if features.projected is not None and as_they_are:
            rows = features.projected[selection.indices]
        else:
            rows = self._project(token_rows(features, selection))
        if self._original:
            return Tokens(rows, selection.indices, len(features))
        return Tokens.in_order(rows)

    def room(self, features: VisualFeatures, kept: int) -> int:
        """The position ids that the visual tokens take up."""
        return len(features) if self._original else kept
