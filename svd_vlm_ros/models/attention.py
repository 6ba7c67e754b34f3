# SPDX-License-Identifier: Apache-2.0
"""What patches pay attention to in a vision encoder that has no class token to ask."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = 16 << 20  # of attention weights at a time: no larger chunk is faster on a CPU


def attention_received(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """How much attention each patch receives: the mean over all patches that look at it.

    A layer goes on with fused attention, which keeps no weights. Here they are computed once more,
    a chunk of queries at a time: all weights of 4,000 patches and 16 heads would be 1 GB.

    Args:
        queries, keys: [n, heads, head size], rotated if the layer rotates them.
        scale: of their scalar products.

    Returns:
        float32 [heads, n]; each row sums to 1.
    """
    queries, keys = queries.transpose(0, 1), keys.transpose(0, 1).float()
    heads, count, _ = keys.shape
    received = torch.zeros(heads, count, device=keys.device)
    for chunk in queries.split(max(1, CHUNK_BYTES // (4 * heads * count)), dim=1):
        received += ((chunk.float() * scale) @ keys.mT).softmax(dim=-1).sum(dim=1)
    return received / count
