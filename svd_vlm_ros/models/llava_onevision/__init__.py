# SPDX-License-Identifier: Apache-2.0
"""LLaVA-OneVision: SigLIP over a thumbnail and tiles in many more shapes, Qwen2.

It is LLaVA-NeXT's way (`models/llava_next/`) with two differences: there is no class token, and a
grid of far more than nine tiles, as of a Full HD image, is shrunk to about nine. Videos and
several images in one prompt are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.chat import chatml
from svd_vlm_ros.models.llava_next.family import AnyresFamily
from svd_vlm_ros.models.tiny import TINY_TEXT
from svd_vlm_ros.planning.config_defaults import SIGLIP_384

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class LlavaOnevisionFamily(AnyresFamily):
    """The family, as `models.registry` knows it."""

    model_type = "llava_onevision"
    text_types = ("qwen2",)
    random_models = ("random:tiny-llava_onevision", "random:llava-onevision-0.5b")
    special_tokens = ("<image>", "<|im_start|>", "<|im_end|>")
    chat_template = chatml("<image>\n")
    vision_type = "siglip_vision_model"
    class_tokens = 0
    strategy = "full"

    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""
        from transformers import LlavaOnevisionForConditionalGeneration

        return LlavaOnevisionForConditionalGeneration

    def check(self, name: str, config: Mapping[str, object]) -> None:
        """Raise `UserError` unless a config.json describes a model that this package can run."""
        super().check(name, config)
        limit = str(config.get("vision_aspect_ratio", "anyres_max_9"))
        if not re.fullmatch(r"anyres_max_[1-9]\d*", limit):
            raise UserError(
                f"The model {name} has the aspect ratio '{limit}': this package runs "
                "'anyres_max_9' and the like."
            )

    def random_config(self, name: str) -> PretrainedConfig:
        """LLaVA-OneVision 0.5B in every size, or thousands of times fewer weights."""
        from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

        if name == "random:llava-onevision-0.5b":
            return LlavaOnevisionConfig(
                vision_config=SiglipVisionConfig(**SIGLIP_384, num_attention_heads=16),
                text_config=Qwen2Config(
                    vocab_size=152000,
                    hidden_size=896,
                    intermediate_size=4864,
                    num_hidden_layers=24,
                    num_attention_heads=14,
                    num_key_value_heads=2,
                    max_position_embeddings=32768,
                    rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
                    tie_word_embeddings=True,
                ),
                tie_word_embeddings=True,
            )
        # Tiles of 4 x 4 patches and, as in the large one, with a strip behind the last patch.
        sides = [44 * tiles for tiles in range(1, 7)]
        return LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=2,
                image_size=44,
                patch_size=10,
                vision_use_head=False,
            ),
            text_config=Qwen2Config(**TINY_TEXT),
            image_grid_pinpoints=[[down, across] for down in sides for across in sides],
        )

    def processor(self, folder: Path | None, config: Any) -> Any:
        """transformers' image processor."""
        from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
            LlavaOnevisionImageProcessorPil as Processor,
        )

        if folder is not None:
            return Processor.from_pretrained(folder, local_files_only=True)
        side = config.vision_config.image_size
        return Processor(
            size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )


FAMILY = LlavaOnevisionFamily()
