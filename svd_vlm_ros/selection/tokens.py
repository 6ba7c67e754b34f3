# SPDX-License-Identifier: Apache-2.0
"""From features and a selection to the rows that a model's connector takes."""

from __future__ import annotations

import torch
from torch import Tensor

from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.values import Selection


def token_rows(features: VisualFeatures, selection: Selection) -> Tensor:
    """The rows [k, D] of the kept tokens before the connector, merged ones too.

    Args:
        features: what the selection was made from. A selection that mixes in the class token
            needs its row.
        selection: of these features.
    """
    if selection.features is not None:
        return selection.features
    if selection.merge is None:
        return features.patches[selection.indices]
    class_token = features.class_token
    merge = selection.merge.coalesce()
    if class_token is None:
        if bool((merge.indices()[1] == 0).any()):
            raise ValueError("the selection mixes in the class token, which these features lack")
        class_token = torch.zeros_like(features.patches[0])
    # Sums of up to hundreds of patches: in float32, whatever the encoder computes in.
    rows = torch.cat([class_token[None], features.patches]).float()  # [1 + N, D]
    merged = torch.sparse.mm(merge.to(rows.device, torch.float32), rows)
    kept: Tensor = merged.to(features.patches.dtype)
    return kept
