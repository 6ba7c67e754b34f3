# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT (LLaVA 1.6): CLIP over a thumbnail and up to four tiles, Vicuna or Mistral.

`anyres` says which tiles an image is cut into and where their patches lie; `images` and
`vision` rest on it, and `family` puts them together. LLaVA-OneVision is made of the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.llava_next.family import AnyresFamily
from svd_vlm_ros.models.tiny import TINY_TEXT
from svd_vlm_ros.planning.config_defaults import CLIP_LARGE_336

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from svd_vlm_ros.models.interface import ModelOptions
    from svd_vlm_ros.models.stock import LoadedStock

# The turns of Mistral Instruct.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{ '[INST] ' }}{% endif %}"
    "{%- if message.role == 'assistant' %}{{ ' ' }}{% endif %}"
    "{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{ '<image>\\n' }}{% else %}{{ part.text }}{% endif %}"
    "{%- endfor %}"
    "{%- if message.role == 'system' %}{{ '\\n\\n' }}{% endif %}"
    "{%- if message.role == 'user' %}{{ ' [/INST]' }}{% endif %}"
    "{%- if message.role == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{%- endfor %}"
)


class LlavaNextFamily(AnyresFamily):
    """The family, as `models.registry` knows it."""

    model_type = "llava_next"
    text_types = ("llama", "mistral")
    random_models = ("random:tiny-llava_next", "random:llava-next-7b")
    special_tokens = ("<image>",)
    chat_template = CHAT_TEMPLATE
    vision_type = "clip_vision_model"
    class_tokens = 1
    strategy = "default"

    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""
        from transformers import LlavaNextForConditionalGeneration

        return LlavaNextForConditionalGeneration

    def load(
        self, name: str, *, precision: str, device: str, seed: int, options: ModelOptions
    ) -> LoadedStock:
        """Load a model that is on this machine; see `models.load`.

        Raises:
            UserError: also if it has no chat template, unless its language model tells the one.
        """
        loaded = super().load(name, precision=precision, device=device, seed=seed, options=options)
        # Vicuna, Yi and Llama 3 are all "llama", and each is asked in another way.
        is_guess = loaded.template.source == CHAT_TEMPLATE and not loaded.random_weights
        if is_guess and loaded.model.config.get_text_config().model_type != "mistral":
            raise UserError(
                f"{name} has no chat template, so that nothing says how it is asked: fetch a newer "
                "revision of it."
            )
        return loaded

    def random_config(self, name: str) -> PretrainedConfig:
        """LLaVA-NeXT 7B with Mistral in every size, or thousands of times fewer weights."""
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, MistralConfig

        if name == "random:llava-next-7b":
            return LlavaNextConfig(
                vision_config=CLIPVisionConfig(
                    **CLIP_LARGE_336, num_attention_heads=16, projection_dim=768
                ),
                text_config=MistralConfig(
                    vocab_size=32064,
                    max_position_embeddings=32768,
                    rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
                    sliding_window=None,
                ),
            )
        # Tiles of 4 x 4 patches, in the same shapes.
        return LlavaNextConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=2,
                image_size=28,
                patch_size=7,
                projection_dim=32,
            ),
            text_config=LlamaConfig(**TINY_TEXT),
            image_grid_pinpoints=[[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
        )

    def processor(self, folder: Path | None, config: Any) -> Any:
        """transformers' image processor."""
        from transformers.models.llava_next.image_processing_pil_llava_next import (
            LlavaNextImageProcessorPil as Processor,
        )

        if folder is not None:
            return Processor.from_pretrained(folder, local_files_only=True)
        side = config.vision_config.image_size
        return Processor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


FAMILY = LlavaNextFamily()
