# SPDX-License-Identifier: Apache-2.0
"""From vision features to the language model's embeddings, a row for each kept token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from svd_vlm_ros.models.tokens import Tokens
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.tokens import token_rows
from svd_vlm_ros.selection.values import Selection


class Projector:
    """Projects the kept tokens only, of a family without markers: its cost falls with the budget.

    See `interface.Connector`.
    """

    def __init__(
        self, project: Callable[[Tensor], Tensor], original: bool = False, mutual: bool = False
    ) -> None:
        """Take what projects rows [k, D].

        Args:
            project: from what the encoder gives to the language model's embeddings.
            original: whether the kept tokens keep their position ids.
            mutual: whether they see each other, before and behind alike.
        """
        self._project, self._original, self._mutual = project, original, mutual

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tokens:
        """Return the visual tokens [k, hidden] of what was kept, in the order of its patches."""
        as_they_are = selection.merge is None and selection.features is None
        if features.projected is not None and as_they_are:
            rows = features.projected[selection.indices]
        else:
            rows = self._project(token_rows(features, selection))
        tokens = Tokens.in_order(rows)
        if self._original:
            tokens = Tokens(rows, selection.indices, len(features))
        if not self._mutual:
            return tokens
        return replace(tokens, mutual=torch.ones(len(rows), dtype=torch.bool, device=rows.device))

    def room(self, features: VisualFeatures, kept: int) -> int:
        """The position ids that the visual tokens take up."""
        return len(features) if self._original else kept
