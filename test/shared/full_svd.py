# SPDX-License-Identifier: Apache-2.0
"""SVD-Prune written out again with the full singular value decomposition in float64."""

import numpy as np


def full_svd_leverage(matrix, rank_energy=0.9, largest_rank=None, centre=False):
    """The paper's scores by NumPy's full SVD in float64; nothing is shared with the package."""
    f = np.asarray(matrix, dtype=np.float64)
    if centre:
        f = f - f.mean(axis=0)
    u, s, _ = np.linalg.svd(f, full_matrices=False)
    energy = np.cumsum(s**2)
    k = int(np.argmax(energy >= rank_energy * energy[-1])) + 1
    if largest_rank is not None:
        k = min(k, largest_rank)
    return (u[:, :k] ** 2).sum(axis=1) / k


def top(scores, count):
    return sorted(np.argsort(-scores, kind="stable")[:count].tolist())
