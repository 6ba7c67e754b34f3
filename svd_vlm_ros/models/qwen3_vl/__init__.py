# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL (and Cosmos-Reason2, which is one): an image in its own resolution, patches merged by
fours, positions in time, down and across (M-RoPE), DeepStack.

What it shares with other Qwens is in `family.py`. Its own is DeepStack: what the encoder's earlier
blocks say of a four goes to the language model's first layers, and so goes with a kept four.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from svd_vlm_ros.models.qwen3_vl.family import QwenFamily, mrope
from svd_vlm_ros.models.tiny import TINY_TEXT

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from svd_vlm_ros.models.interface import VisionEncoder


class Qwen3VLFamily(QwenFamily):
    """The family, as `models.registry` knows it."""

    model_type = "qwen3_vl"
    text_types = ("qwen3_vl_text",)
    random_models = ("random:tiny-qwen3_vl", "random:qwen3-vl-2b")
    image_settings: ClassVar[Mapping[str, Any]] = {
        "patch_size": 16,
        "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }

    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""
        from transformers import Qwen3VLForConditionalGeneration

        return Qwen3VLForConditionalGeneration

    def random_config(self, name: str) -> PretrainedConfig:
        """Qwen3-VL-2B in every size, or thousands of times fewer weights."""
        from transformers import Qwen3VLConfig

        if name == "random:qwen3-vl-2b":
            return Qwen3VLConfig(
                vision_config={
                    "depth": 24,
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_heads": 16,
                    "out_hidden_size": 2048,
                    "deepstack_visual_indexes": [5, 11, 17],
                },
                text_config={
                    "hidden_size": 2048,
                    "intermediate_size": 6144,
                    "num_hidden_layers": 28,
                    "num_attention_heads": 16,
                    "num_key_value_heads": 8,
                    "head_dim": 128,
                    "max_position_embeddings": 262144,
                    "rope_parameters": mrope(5_000_000, [24, 20, 20], mrope_interleaved=True),
                    "tie_word_embeddings": True,
                },
                tie_word_embeddings=True,
            )
        return Qwen3VLConfig(
            vision_config={
                "depth": 3,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "out_hidden_size": 64,
                "num_position_embeddings": 256,
                "deepstack_visual_indexes": [0, 1],
                "initializer_range": 0.2,
            },
            text_config={
                **TINY_TEXT,
                "head_dim": 16,
                "rope_parameters": mrope(10_000, [4, 2, 2], mrope_interleaved=True),
            },
        )

    def encoder(self, model: Any) -> VisionEncoder:
        """The encoder, with what DeepStack takes on the way."""
        from svd_vlm_ros.models.qwen3_vl.vision import QwenEncoder

        return QwenEncoder(model.model.visual)


FAMILY = Qwen3VLFamily()
