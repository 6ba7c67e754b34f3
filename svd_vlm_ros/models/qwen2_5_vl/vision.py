# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL's encoder, which leaves the fours of an image in the order of its windows."""

from __future__ import annotations

from torch import Tensor

from svd_vlm_ros.models.qwen3_vl.vision import QwenEncoder


class WindowedEncoder(QwenEncoder):
    """See `QwenEncoder`. What the merger makes of all fours is in raster order already."""

    def raster(self, sizes: Tensor) -> Tensor:
        """See `QwenEncoder.raster`."""
        from transformers.vision_utils import get_vision_window_index

        visual = self.visual
        fours, _ = get_vision_window_index(
            sizes, visual.spatial_merge_size, visual.window_size, visual.patch_size
        )
        order: Tensor = fours.argsort()
        return order
