# SPDX-License-Identifier: Apache-2.0
"""InternVL3 (checkpoints in transformers' own form, "...-hf"): tiles, and a thumbnail behind them.

The whole image is resized to a rectangle of square tiles, at most as many as the checkpoint says
(12); if they are more than one, the whole image in one tile comes last. A visual token stands for
2 x 2 patches of a tile (256 of 448 x 448 pixels). A selector chooses among these fours, by the row
that the projector takes: the four patches side by side.

`min_pixels` and `max_pixels` bound the rectangle, the thumbnail left out: 448 * 448 pixels are a
tile. A bound below two tiles means one tile and no thumbnail, 256 tokens for every image.

The kept tokens close ranks ("auto" is "contiguous"): positions lie in one row and tell the model
nothing of where in the image a token stands; as in the papers on pruning.

Each tile has a class token of its own. How much it looks at a four is the mean over its patches.
Selectors that mix the class token in, or compare keys, are refused: the projector takes four
patches and has no place for a class token, and there is one for each tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.chat import chatml
from svd_vlm_ros.models.stock import LoadedStock, StockFamily
from svd_vlm_ros.models.tiny import TINY_TEXT

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from svd_vlm_ros.models.interface import Connector, ImageProcessor, ModelOptions, VisionEncoder
    from svd_vlm_ros.models.internvl.images import InternVLImages

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
# InternVL3's rotary embedding stretches behind the context that it was made for, and only there.
ROPE = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1_000_000.0}
_SIZES: dict[str, dict[str, Any]] = {
    "random:internvl3-1b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "random:internvl3-2b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}


class InternVLFamily(StockFamily):
    """The family, as `models.registry` knows it."""

    model_type = "internvl"
    text_types = ("qwen2", "qwen3", "llama")
    random_models = ("random:tiny-internvl", *_SIZES)
    components: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "vision_tower": ("model.vision_tower",),
        "multi_modal_projector": ("model.multi_modal_projector",),
        "language_model": ("model.language_model",),
        "lm_head": ("lm_head",),
    }
    prunes = True
    image_token = "<IMG_CONTEXT>"
    special_tokens = ("<IMG_CONTEXT>", "<img>", "</img>", "<|im_start|>", "<|im_end|>")
    around = ("<img>", "</img>")
    chat_template = chatml("<IMG_CONTEXT>\n")
    dynamic = True

    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""
        from transformers import InternVLForConditionalGeneration

        return InternVLForConditionalGeneration

    def random_config(self, name: str) -> PretrainedConfig:
        """InternVL3-1B or 2B in every size, or thousands of times fewer weights."""
        from transformers import InternVLConfig, Qwen2Config

        if name in _SIZES:
            text = {"vocab_size": 151674, "max_position_embeddings": 32768, **_SIZES[name]}
            return InternVLConfig(
                vision_config={"attention_bias": True},  # else its defaults: InternViT-300M
                text_config=Qwen2Config(**text, rope_parameters=ROPE, tie_word_embeddings=False),
                tie_word_embeddings=False,
            )
        return InternVLConfig(
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 56,
                "layer_scale_init_value": 1.0,
                "initializer_range": 0.2,
            },
            text_config=Qwen2Config(**TINY_TEXT, rope_parameters=ROPE, tie_word_embeddings=False),
            tie_word_embeddings=False,
        )

    def check(self, name: str, config: Mapping[str, object]) -> None:
        """See `StockFamily.check`; what no published checkpoint does is refused."""
        super().check(name, config)
        text = config.get("text_config")
        if isinstance(text, Mapping) and text.get("use_sliding_window"):
            raise UserError(
                f"The language model of {name} looks through a sliding window, which this package "
                "does not run for 'internvl'."
            )
        layer, strategy = config.get("vision_feature_layer", -1), "vision_feature_select_strategy"
        if layer != -1 or config.get(strategy, "default") != "default":
            raise UserError(
                f"The model {name} takes other features than those of the last layer without the "
                "class token, which this package does not run for 'internvl'."
            )

    def image_processor(
        self, folder: Path | None, config: Any, options: ModelOptions
    ) -> ImageProcessor:
        """Cuts images into tiles."""
        from svd_vlm_ros.models.internvl.images import InternVLImages

        vision = config.vision_config
        height, width = vision.image_size
        size = {"height": height, "width": width}
        random = {"size": size, "image_mean": MEAN, "image_std": STD}
        four = int(vision.patch_size[0] / config.downsample_ratio)
        return InternVLImages.make(folder, options, random, four)

    def encoder(self, model: Any) -> VisionEncoder:
        """The encoder, over all tiles at once."""
        from svd_vlm_ros.models.internvl.vision import InternVLEncoder

        return InternVLEncoder(model.model)

    def connector(self, loaded: LoadedStock) -> Connector:
        """The projector."""
        from svd_vlm_ros.models.projector import Projector

        return Projector(loaded.model.model.multi_modal_projector, loaded.original_positions)

    def stock_image(self, loaded: LoadedStock, inputs: dict[str, Any]) -> str:
        """One token for each four of each tile."""
        tiles, images = inputs.pop("num_patches"), cast("InternVLImages", loaded.images)
        return self.image_token * (int(tiles[0]) * images.side**2)


FAMILY = InternVLFamily()
