# SPDX-License-Identifier: Apache-2.0
"""Idefics3, and the first SmolVLM, which is one: as SmolVLM2 in all that `models.smolvlm` says.

The names of tiles are plain text to the tokenizer of Idefics3, several tokens each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from svd_vlm_ros.models.smolvlm import SmolVLMFamily
from svd_vlm_ros.models.smolvlm.prompt import BORDER

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Idefics3Family(SmolVLMFamily):
    """The family, as `models.registry` knows it."""

    model_type = "idefics3"
    random_models: ClassVar[tuple[str, ...]] = ("random:tiny-idefics3",)
    special_tokens: ClassVar[tuple[str, ...]] = ("<image>", "<end_of_utterance>", BORDER)

    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""
        from transformers import Idefics3ForConditionalGeneration

        return Idefics3ForConditionalGeneration

    def processor_class(self) -> type:
        """What prepares images, with Pillow."""
        from transformers.models.idefics3.image_processing_pil_idefics3 import (
            Idefics3ImageProcessorPil,
        )

        return Idefics3ImageProcessorPil


FAMILY = Idefics3Family()
