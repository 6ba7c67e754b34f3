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
    return merged_rows(features.patches, selection, features.class_token)


def merged_rows(rows: Tensor, selection: Selection, class_token: Tensor | None = None) -> Tensor:
    """Rows [N, d] that belong to patches, as a selection keeps or merges them: [k, d].

    Args:
        rows: one for each patch.
        selection: of these patches.
        class_token: [d], for a selection that mixes it in.
    """
    if selection.merge is None:
        return rows[selection.indices]
    merge = selection.merge.coalesce()
    if class_token is None:
        if bool((merge.indices()[1] == 0).any()):
            raise ValueError("the selection mixes in the class token, which these features lack")
        class_token = torch.zeros_like(rows[0])
    # Sums of up to hundreds of patches: in float32, whatever the encoder computes in.
    everything = torch.cat([class_token[None], rows]).float()  # [1 + N, d]
    merged = torch.sparse.mm(merge.to(rows.device, torch.float32), everything)
    kept: Tensor = merged.to(rows.dtype)
    return kept
