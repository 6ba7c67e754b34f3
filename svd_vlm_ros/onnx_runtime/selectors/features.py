# SPDX-License-Identifier: Apache-2.0
"""What a selector looks at and what it gives, in NumPy; see `selection.features` and `values`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class VisualFeatures:
    """The patches of one image as the vision encoder sees them, and what a selector asked for.

    Attributes:
        patches: float [N, D], the encoder's output that the connector takes, in raster order.
        grid: rows and columns of patches, rows * columns == N; None: they form no one grid.
        valid: bool [N], False where a patch shows only padding; None: all patches are valid.
        class_attention: need "class_attention". float32 [heads, N]: how much the class token looks
            at each patch in the layer whose output `patches` is.
        class_token: need "class_attention". float [D], the class token beside the patches.
        keys: need "keys". float [N, head size]: that layer's keys, the mean over its heads.
        class_key: need "keys". float [head size], the key of the class token.
        projected: need "projected". float [N, hidden], all patches through the connector.
    """

    patches: np.ndarray
    grid: tuple[int, int] | None
    valid: np.ndarray | None = None
    class_attention: np.ndarray | None = None
    class_token: np.ndarray | None = None
    keys: np.ndarray | None = None
    class_key: np.ndarray | None = None
    projected: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.patches)

    def valid_indices(self) -> np.ndarray:
        """The indices of the patches that show some of the image: int64 [n], ascending."""
        if self.valid is None:
            return np.arange(len(self))
        return np.flatnonzero(self.valid)


@dataclass(frozen=True, eq=False)
class Selection:
    """What a selector kept: k patches, as they are.

    Attributes:
        indices: int64 [k], ascending (raster order).
        scores: float32 [N] for display; they sum to 1 and are 0 on invalid patches.
    """

    indices: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)
