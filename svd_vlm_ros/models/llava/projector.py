# SPDX-License-Identifier: Apache-2.0
"""The two-layer projector from vision features to the language model's embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from svd_vlm_ros.selection.interface import Selection, VisualFeatures

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration


class Projector:
    """Projects the kept tokens only: its cost falls with the budget."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self._projector = model.model.multi_modal_projector

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tensor:
        """Return the visual tokens [k, hidden] of what was kept, in the order of its patches."""
        as_they_are = selection.merge is None and selection.features is None
        if features.projected is not None and as_they_are:
            return features.projected[selection.indices]
        return self._projector(token_rows(features, selection))


def token_rows(features: VisualFeatures, selection: Selection) -> Tensor:
    """The rows [k, D] of the kept tokens before the projector, merged ones too.

    Args:
        features: what the selection was made from. A selection that mixes in CLS needs its row.
        selection: of these features.
    """
    if selection.features is not None:
        return selection.features
    if selection.merge is None:
        return features.patches[selection.indices]
    cls = features.cls
    merge = selection.merge.coalesce()
    if cls is None:
        if bool((merge.indices()[1] == 0).any()):
            raise ValueError("the selection mixes in CLS, which these features lack")
        cls = torch.zeros_like(features.patches[0])
    # Sums of up to 576 patches: in float32, whatever the tower computes in.
    rows = torch.cat([cls[None], features.patches]).float()  # [1 + N, D]
    merged = torch.sparse.mm(merge.to(rows.device, torch.float32), rows)
    return merged.to(features.patches.dtype)
