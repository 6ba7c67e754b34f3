# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL from transformers' public functions."""

from typing import ClassVar

from families.reference_qwen3_vl import Qwen3VL
from family_reference import Reference
from transformers.vision_utils import get_vision_window_index


class Qwen25VL(Qwen3VL):
    settings: ClassVar = {"min_pixels": 3136, "max_pixels": 12845056}

    def features(self, inputs):
        vision = self.model.config.vision_config
        windows, _ = get_vision_window_index(
            inputs["image_grid_thw"],
            vision.spatial_merge_size,
            vision.window_size,
            vision.patch_size,
        )
        return super().features(inputs)[windows.argsort()]

    def planes(self, seen):
        return None

    language = Reference.language
