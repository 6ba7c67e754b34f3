# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 with images (4B and up): 256 visual tokens whose language model lets them see each other.

The whole image is resized to one square of 896 x 896 pixels. SigLIP makes 4096 patches of it, of
which averages over 4 x 4 become the visual tokens. A selector chooses among these averages, the
rows that the projector's norm and matrix take. Pan and scan, crops beside the image, is off, as it
is by default in transformers' processor.

The language model's layers are transformers' own (`language/stock.py`): five of six look through a
sliding window, and the tokens of the image see each other, before and behind alike. Of a pruned
image it is the kept ones that do. So nothing can be dropped between its layers.

The kept tokens close ranks ("auto" is "contiguous"): positions lie in one row and tell the model
nothing of where in the image a token stands. SigLIP has no class token: selectors that need one,
or keys, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.stock import LoadedStock, StockFamily
from svd_vlm_ros.models.tiny import TINY_TEXT

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from svd_vlm_ros.models.interface import Connector, ImageProcessor, ModelOptions, VisionEncoder

# Turns of a user and a model; a system prompt stands at the head of the user's first turn.
CHAT_TEMPLATE = (
    "{{- bos_token }}{% set ahead = namespace(text='') %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{% set ahead.text = message.content[0].text + '\\n\\n' %}"
    "{%- else %}"
    "{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}"
    "{{- ahead.text }}{% set ahead.text = '' %}"
    "{%- for part in message.content %}"
    "{{- '<start_of_image>' if part.type == 'image' else part.text | trim }}{% endfor %}"
    "{{- '<end_of_turn>\\n' }}{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


class Gemma3Family(StockFamily):
    """The family, as `models.registry` knows it."""

    model_type = "gemma3"
    text_types = ("gemma3_text",)
    random_models = ("random:tiny-gemma3", "random:gemma-3-4b")
    components: ClassVar[Mapping[str, tuple[str, ...]]] = {
        # The projector is a norm and a matrix, no linear layer.
        "vision_tower": ("model.vision_tower", "model.multi_modal_projector"),
        "language_model": ("model.language_model",),
        "lm_head": ("lm_head",),
    }
    prunes = False
    image_token = "<image_soft_token>"
    written = "<start_of_image>"
    special_tokens = (
        "<image_soft_token>",
        "<start_of_image>",
        "<end_of_image>",
        "<start_of_turn>",
        "<end_of_turn>",
    )
    around = ("\n\n<start_of_image>", "<end_of_image>\n\n")
    chat_template = CHAT_TEMPLATE
    stock_layers = True

    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""
        from transformers import Gemma3ForConditionalGeneration

        return Gemma3ForConditionalGeneration

    def random_config(self, name: str) -> PretrainedConfig:
        """Gemma 3 4B in every size, or thousands of times fewer weights."""
        from transformers import Gemma3Config

        if name == "random:gemma-3-4b":
            return Gemma3Config(
                vision_config={
                    "hidden_size": 1152,
                    "intermediate_size": 4304,
                    "num_hidden_layers": 27,
                    "num_attention_heads": 16,
                    "image_size": 896,
                    "patch_size": 14,
                    "vision_use_head": False,
                },
                text_config={
                    "hidden_size": 2560,
                    "intermediate_size": 10240,
                    "num_hidden_layers": 34,
                    "num_attention_heads": 8,
                    "num_key_value_heads": 4,
                    "head_dim": 256,
                    "sliding_window": 1024,
                    "rope_parameters": _rope({"rope_type": "linear", "factor": 8.0}),
                },
            )
        return Gemma3Config(
            mm_tokens_per_image=36,
            initializer_range=0.2,
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 48,
                "patch_size": 4,
                "vision_use_head": False,
            },
            text_config={
                **TINY_TEXT,
                "head_dim": 16,
                "query_pre_attn_scalar": 16,
                "sliding_window": 24,  # less than an image, so that it cuts through it
                "sliding_window_pattern": 2,
                "rope_parameters": _rope({"rope_type": "linear", "factor": 8.0}),
            },
        )

    def fill(self, model: Any, seed: int) -> None:
        """The projector's matrix, without which an image is nothing."""
        import torch

        matrix = model.model.multi_modal_projector.mm_input_projection_weight
        generator = torch.Generator(matrix.device).manual_seed(seed)
        matrix.data.normal_(0.0, model.config.initializer_range, generator=generator)

    def check(self, name: str, config: Mapping[str, object]) -> None:
        """See `StockFamily.check`; what no published checkpoint with images does is refused."""
        super().check(name, config)
        text = config.get("text_config")
        for setting in ("use_bidirectional_attention", "attn_logit_softcapping"):
            if isinstance(text, Mapping) and text.get(setting):
                raise UserError(
                    f"The language model of {name} has {setting}, which this package does not run "
                    "for 'gemma3'."
                )

    def image_processor(
        self, folder: Path | None, config: Any, options: ModelOptions
    ) -> ImageProcessor:
        """Resizes to one square."""
        from svd_vlm_ros.models.gemma3.images import Gemma3Images

        side = config.vision_config.image_size
        mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        random = {"size": {"height": side, "width": side}, **mean}
        return Gemma3Images.make(folder, random, side, int(config.mm_tokens_per_image**0.5))

    def encoder(self, model: Any) -> VisionEncoder:
        """SigLIP and the averages over its patches."""
        from svd_vlm_ros.models.gemma3.vision import Gemma3Encoder

        return Gemma3Encoder(model.model)

    def connector(self, loaded: LoadedStock) -> Connector:
        """The projector's norm and matrix; what it gives sees each other."""
        from svd_vlm_ros.models.gemma3.vision import projection
        from svd_vlm_ros.models.projector import Projector

        project = projection(loaded.model.model.multi_modal_projector)
        return Projector(project, loaded.original_positions, mutual=True)

    def stock_image(self, loaded: LoadedStock, inputs: dict[str, Any]) -> str:
        """As many tokens for every image."""
        del inputs["num_crops"]
        return self.image_token * loaded.images.tokens

    def stock_extra(self, ids: torch.Tensor, config: Any) -> dict[str, Any]:
        """Where the image stands, whose tokens see each other."""
        return {"token_type_ids": (ids == config.image_token_id).int()}


def _rope(stretched: dict[str, Any]) -> dict[str, Any]:
    """Of layers that see everything, and of those with a window."""
    return {
        "full_attention": {**stretched, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }


FAMILY = Gemma3Family()
