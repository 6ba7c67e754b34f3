# SPDX-License-Identifier: Apache-2.0
"""What LLaVA-NeXT and LLaVA-OneVision share as families: tiles, newlines, where their parts are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.stock import LoadedStock, StockFamily

if TYPE_CHECKING:
    from svd_vlm_ros.models.interface import Connector, ImageProcessor, ModelOptions, VisionEncoder


class AnyresFamily(StockFamily):
    """A family whose images are a thumbnail and tiles, with a newline behind each row.

    The kept tokens close ranks, as in the papers on LLaVA: positions say nothing but order here.
    `min_pixels` and `max_pixels` choose among the shapes that the model resizes images to: fewer
    tiles are less work for the tower, which pruning does not spare.

    Attributes:
        vision_type: the `model_type` of the tower.
        class_tokens: in front of a tile's patches in the tower: 1 or 0.
        strategy: what its `vision_feature_select_strategy` must be.
    """

    components: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "vision_tower": ("model.vision_tower",),
        "projector": ("model.multi_modal_projector",),
        "language_model": ("model.language_model",),
        "lm_head": ("lm_head",),
    }
    prunes = False
    dynamic = True
    image_token = "<image>"
    vision_type: ClassVar[str]
    class_tokens: ClassVar[int]
    strategy: ClassVar[str]

    @abstractmethod
    def processor(self, folder: Path | None, config: Any) -> Any:
        """transformers' image processor; `folder` is None for random models."""

    def check(self, name: str, config: Mapping[str, object]) -> None:
        """Raise `UserError` unless a config.json describes a model that this package can run."""
        super().check(name, config)
        vision, text = (config.get(f"{part}_config") or {} for part in ("vision", "text"))
        assert isinstance(vision, Mapping)
        assert isinstance(text, Mapping)
        kind = vision.get("model_type", self.vision_type)
        if kind != self.vision_type:
            raise UserError(
                f"The model {name} has the vision tower '{kind}': of '{self.model_type}' this "
                f"package runs those with '{self.vision_type}'."
            )
        if not isinstance(config.get("vision_feature_layer", -1), int):
            raise UserError(
                f"The model {name} mixes several vision layers, which is not supported."
            )
        strategy = config.get("vision_feature_select_strategy", self.strategy)
        if strategy != self.strategy:
            raise UserError(
                f"The model {name} selects vision features by '{strategy}': this package runs "
                f"'{self.strategy}'."
            )
        if _looks_back_only_so_far(text):
            raise UserError(
                f"The language model of {name} looks at a window of its last tokens: this package "
                "runs those that look at all."
            )

    def image_processor(
        self, folder: Path | None, config: Any, options: ModelOptions
    ) -> ImageProcessor:
        """Resizes to the shape that loses least, and cuts it into tiles."""
        from svd_vlm_ros.models.llava_next.anyres import Anyres
        from svd_vlm_ros.models.llava_next.images import AnyresImages

        return AnyresImages.make(self.processor(folder, config), Anyres.of(config, options))

    def encoder(self, model: Any) -> VisionEncoder:
        """The tower, over all tiles at once."""
        from svd_vlm_ros.models.llava_next.vision import TileEncoder

        return TileEncoder(model, self.class_tokens)

    def connector(self, loaded: LoadedStock) -> Connector:
        """The projector, and the newlines."""
        from svd_vlm_ros.models.llava_next.vision import NewlineProjector

        return NewlineProjector(loaded.model, loaded.original_positions)

    def stock_image(self, loaded: LoadedStock, inputs: dict[str, Any]) -> str:
        """One token for each patch of the thumbnail and of the large grid, and for each newline."""
        from svd_vlm_ros.models.llava_next.anyres import frame

        images: Any = loaded.images
        height, width = (int(side) for side in inputs["image_sizes"][0])
        small, large = (tile.grid for tile in frame(images.anyres, height, width).tiles)
        return self.image_token * (small[0] * small[1] + large[0] * (large[1] + 1))


def _looks_back_only_so_far(text: Mapping[str, Any]) -> bool:
    """Whether a language model's config.json has a sliding window, by its type's own default."""
    if text.get("model_type") == "mistral":
        return text.get("sliding_window", 4096) is not None
    return bool(text.get("use_sliding_window", False))
