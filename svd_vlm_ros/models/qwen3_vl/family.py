# SPDX-License-Identifier: Apache-2.0
"""What the Qwen VL families share: prompt, images, merger, places.

A visual token stands for 2 x 2 patches. A selector chooses among these fours, by the row that the
merger takes: the encoder's output of the four patches side by side. A kept four keeps the position
that it has in the whole image, since nearness in the image is what M-RoPE tells the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from svd_vlm_ros.models.chat import chatml
from svd_vlm_ros.models.stock import LoadedStock, StockFamily

if TYPE_CHECKING:
    import torch

    from svd_vlm_ros.models.interface import Connector, ImageProcessor, ModelOptions


class QwenFamily(StockFamily):
    """A family of Qwen's; what remains to be said are its model, its encoder and its numbers.

    Attributes:
        image_settings: of random models, as the processor's class takes them.
    """

    components: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "visual": ("model.visual",),
        "language_model": ("model.language_model",),
        "lm_head": ("lm_head",),
    }
    prunes = False
    image_token = "<|image_pad|>"
    special_tokens = (
        "<|image_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|im_start|>",
        "<|im_end|>",
    )
    chat_template = chatml("<|vision_start|><|image_pad|><|vision_end|>")
    original_positions = True
    dynamic = True
    image_settings: ClassVar[Mapping[str, Any]]

    def image_processor(
        self, folder: Path | None, config: Any, options: ModelOptions
    ) -> ImageProcessor:
        """Resizes to multiples of a four's side, within bounds of pixels."""
        from svd_vlm_ros.models.qwen3_vl.images import QwenImages

        return QwenImages.make(folder, options, self.image_settings)

    def connector(self, loaded: LoadedStock) -> Connector:
        """The merger."""
        from svd_vlm_ros.models.qwen3_vl.vision import QwenMerger

        return QwenMerger(loaded.model.model.visual, loaded.original_positions)

    def stock_image(self, loaded: LoadedStock, inputs: dict[str, Any]) -> str:
        """One token for each four."""
        merge: int = loaded.model.config.vision_config.spatial_merge_size
        return self.image_token * (int(inputs["image_grid_thw"].prod()) // merge**2)

    def stock_extra(self, ids: torch.Tensor, config: Any) -> dict[str, Any]:
        """Where the image stands, from which `generate` finds the positions."""
        return {"mm_token_type_ids": (ids == config.image_token_id).int()}


def mrope(theta: int, sections: list[int], **more: Any) -> dict[str, Any]:
    """Rotary embeddings of three axes, as a configuration has them.

    Args:
        theta: base of their frequencies.
        sections: frequencies of time, down and across.
        more: that a family has beside them.
    """
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": sections, **more}
