# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL (and Cosmos-Reason1, which is one): an image in its own resolution, patches merged by
fours, an encoder that looks through windows, positions in time, down and across (M-RoPE).

What it shares with Qwen3-VL is in that family's room. Its own: smaller patches, no DeepStack, and
blocks that see windows of 8 x 8 patches, in whose order the encoder leaves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.qwen3_vl.family import QwenFamily, mrope
from svd_vlm_ros.models.tiny import TINY_TEXT

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from svd_vlm_ros.models.interface import VisionEncoder

# A conversation without a system prompt is given one.
SYSTEM = (
    "{%- if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
)


class Qwen25VLFamily(QwenFamily):
    """The family, as `models.registry` knows it."""

    model_type = "qwen2_5_vl"
    text_types = ("qwen2_5_vl_text", "qwen2_5_vl")  # the second as older files have it
    random_models = ("random:tiny-qwen2_5_vl", "random:qwen2.5-vl-3b")
    chat_template = SYSTEM + QwenFamily.chat_template
    image_settings: ClassVar[Mapping[str, Any]] = {
        "patch_size": 14,
        "size": {"shortest_edge": 3_136, "longest_edge": 12_845_056},
    }

    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""
        from transformers import Qwen2_5_VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration

    def check(self, name: str, config: Mapping[str, object]) -> None:
        """Also refuse layers that do not see all that was read, which no published model has."""
        super().check(name, config)
        text = config.get("text_config")
        text = text if isinstance(text, Mapping) else config  # older files have it all in one
        if text.get("use_sliding_window"):
            raise UserError(
                f"The language model of {name} looks back through a sliding window: this package "
                "runs those that see all that was read."
            )

    def random_config(self, name: str) -> PretrainedConfig:
        """Qwen2.5-VL-3B in every size, or thousands of times fewer weights."""
        from transformers import Qwen2_5_VLConfig

        if name == "random:qwen2.5-vl-3b":
            return Qwen2_5_VLConfig(
                vision_config={
                    "depth": 32,
                    "hidden_size": 1280,
                    "intermediate_size": 3420,
                    "num_heads": 16,
                    "out_hidden_size": 2048,
                },
                text_config={
                    "vocab_size": 151936,
                    "hidden_size": 2048,
                    "intermediate_size": 11008,
                    "num_hidden_layers": 36,
                    "num_attention_heads": 16,
                    "num_key_value_heads": 2,
                    "max_position_embeddings": 128000,
                    "rms_norm_eps": 1e-6,
                    "rope_parameters": mrope(1_000_000, [16, 24, 24]),
                },
                tie_word_embeddings=True,
            )
        return Qwen2_5_VLConfig(
            vision_config={
                "depth": 3,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "out_hidden_size": 64,
                "fullatt_block_indexes": [0, 2],
                "initializer_range": 0.2,
            },
            text_config={
                **TINY_TEXT,
                "bos_token_id": None,  # as scout's tokenizer has them, later
                "eos_token_id": None,
                "rope_parameters": mrope(10_000, [2, 3, 3]),
            },
        )

    def encoder(self, model: Any) -> VisionEncoder:
        """The encoder, its windows undone."""
        from svd_vlm_ros.models.qwen2_5_vl.vision import WindowedEncoder

        return WindowedEncoder(model.model.visual)


FAMILY = Qwen25VLFamily()
