# SPDX-License-Identifier: Apache-2.0
"""SmolVLM2: an image enlarged and cut into square tiles, each with its name in front of its visual
tokens, and the whole image once more as the last tile.

A visual token stands for a block of patches, 3 x 3 or 4 x 4 of them. A selector chooses among these
blocks, by the row that the connector takes: the encoder's output of the block's patches side by
side (`pixel_shuffle`). `modality_projection` runs on the kept rows alone. A tile of which nothing
is kept leaves no name; the line feeds behind the rows of tiles, and the mark behind the whole
image, always stay. The language model counts all tokens in one row, as a shorter text would be
read, so kept tokens close ranks unless the option says otherwise.

Every image is enlarged, or reduced, until its longer side is N tiles long, N = 4 in the published
checkpoints: what it costs depends on its shape alone. `max_pixels` lowers N until N x N tiles have
no more pixels than that, and `min_pixels` raises it until they have as many. N = 1, which is any
`max_pixels` of less than four tiles, means that nothing is cut: one tile shows the whole image, for
a thirteenth of the tokens of a 4:3 image. Less than one tile is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from svd_vlm_ros.models.smolvlm.prompt import BORDER, CHAT_TEMPLATE, WHOLE, tile_name
from svd_vlm_ros.models.stock import LoadedStock, StockFamily

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from svd_vlm_ros.models.interface import Connector, ImageProcessor, ModelOptions, VisionEncoder


class SmolVLMFamily(StockFamily):
    """The family, as `models.registry` knows it."""

    model_type = "smolvlm"
    text_types = ("llama",)
    random_models: ClassVar[tuple[str, ...]] = (
        "random:tiny-smolvlm",
        "random:smolvlm2-2.2b",
        "random:smolvlm2-500m",
    )
    components: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "vision_model": ("model.vision_model",),
        "connector": ("model.connector",),
        "language_model": ("model.text_model",),
        "lm_head": ("lm_head",),
    }
    prunes = False
    image_token = "<image>"
    special_tokens: ClassVar[tuple[str, ...]] = (
        *("<image>", "<end_of_utterance>", BORDER, WHOLE),
        *(tile_name(row, column) for row in range(4) for column in range(4)),
    )
    chat_template = CHAT_TEMPLATE
    dynamic = True
    image_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"return_row_col_info": True})

    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""
        from transformers import SmolVLMForConditionalGeneration

        return SmolVLMForConditionalGeneration

    def processor_class(self) -> type:
        """What prepares images, with Pillow."""
        from transformers.models.smolvlm.image_processing_pil_smolvlm import (
            SmolVLMImageProcessorPil,
        )

        return SmolVLMImageProcessorPil

    def random_config(self, name: str) -> PretrainedConfig:
        """SmolVLM2 of 2.2 or 0.5 billion weights, or thousands of times fewer."""
        from svd_vlm_ros.models.smolvlm.random import SIZES

        config_class: Any = self.model_class().config_class
        config: PretrainedConfig = config_class(**SIZES[name])
        return config

    def image_processor(
        self, folder: Path | None, config: Any, options: ModelOptions
    ) -> ImageProcessor:
        """Cuts images into tiles."""
        from svd_vlm_ros.models.smolvlm.images import TiledImages

        return TiledImages.make(self.processor_class(), folder, config, options)

    def encoder(self, model: Any) -> VisionEncoder:
        """The encoder, which sees every tile alone."""
        from svd_vlm_ros.models.smolvlm.vision import TileEncoder

        return TileEncoder(model)

    def connector(self, loaded: LoadedStock) -> Connector:
        """The projection, and the names of the tiles."""
        from svd_vlm_ros.models.smolvlm.connector import TileConnector

        return TileConnector(loaded.model, loaded.tokenizer, loaded.original_positions)

    def stock_image(self, loaded: LoadedStock, inputs: dict[str, Any]) -> str:
        """The tiles' names, each with its visual tokens behind it."""
        from svd_vlm_ros.models.smolvlm.prompt import marked_text

        images: Any = loaded.images
        rows, columns = int(inputs.pop("rows")[0][0]), int(inputs.pop("cols")[0][0])
        blocks = (images.side // images.block) ** 2
        return marked_text(rows, columns, self.image_token * blocks)

    def _fitted(self, config: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """As every family; line feeds, which stand between tiles, are nothing to scout."""
        from transformers import AddedToken

        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "\n")])
        return super()._fitted(config, tokenizer)


FAMILY = SmolVLMFamily()
