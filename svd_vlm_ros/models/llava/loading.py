# SPDX-License-Identifier: Apache-2.0
"""From a model's name to its weights in memory. transformers holds the weights; nothing is fetched.

loaded = load_llava("llava-hf/llava-1.5-7b-hf", precision="int4", device="auto")
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from svd_vlm_ros.models.checkpoint import context_of, decoder_parts, load_checkpoint
from svd_vlm_ros.models.files import find_folder, is_random, read_json
from svd_vlm_ros.models.interface import Compare, ModelOptions
from svd_vlm_ros.models.language.model import CachedLanguageModel
from svd_vlm_ros.models.llava.architecture import check_architecture, text_config, vision_config
from svd_vlm_ros.models.llava.clip_text import load_relevance
from svd_vlm_ros.models.llava.preprocess import ImageSettings
from svd_vlm_ros.models.llava.prompt import IMAGE_TOKEN, TEMPLATE
from svd_vlm_ros.models.llava.random import build_random, random_config
from svd_vlm_ros.models.llava.vision import VisionTower
from svd_vlm_ros.models.loading import refuse_pixels
from svd_vlm_ros.models.projector import Projector
from svd_vlm_ros.models.prompt import Prompt
from svd_vlm_ros.planning.configurations import sizes_from_config
from svd_vlm_ros.planning.shapes import ModelSizes
from svd_vlm_ros.selection.relevance import TextRelevance

if TYPE_CHECKING:
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        PreTrainedTokenizerBase,
    )

COMPONENTS = {
    "vision_tower": ("model.vision_tower",),
    "multi_modal_projector": ("model.multi_modal_projector",),
    "language_model": ("model.language_model",),
    "lm_head": ("lm_head",),
}


@dataclass(frozen=True, eq=False)
class LoadedLlava:
    """A LLaVA ready to run: evaluation mode, no gradients, on its device.

    Attributes:
        model: the weights, in transformers' own class.
        tokenizer: of the same folder.
        images: how images become pixel values.
        image_token_id: the id of `<image>`.
        end_token_ids: the ids that end an answer.
        dtype: of activations and of the weights that are not quantized.
        random_weights: the answers mean nothing.
        folder: of the checkpoint's files; scout's for random models.
        original_positions: whether the kept tokens keep their position ids; else they close ranks,
            as in the papers.
    """

    model: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    images: ImageSettings
    image_token_id: int
    end_token_ids: frozenset[int]
    precision: str
    dtype: torch.dtype
    device: torch.device
    random_weights: bool
    folder: Path
    original_positions: bool = False

    components = COMPONENTS
    prunes = True

    @property
    def context(self) -> int:
        """See `checkpoint.context_of`."""
        return context_of(text_config(self.model.config))

    def prompt(self, system_prompt: str | None) -> Prompt:
        """LLaVA-1.5's prompt; see `TEMPLATE`."""
        return Prompt(self.tokenizer, TEMPLATE, system_prompt)

    def encoder(self) -> VisionTower:
        """CLIP, up to the layer that LLaVA looks at."""
        return VisionTower(self.model)

    def connector(self) -> Projector:
        """The projector."""
        return Projector(self.model.model.multi_modal_projector, self.original_positions)

    def language_model(self) -> CachedLanguageModel:
        """Llama, in the loop over the layers that families share."""
        stock = self.model.model.language_model
        config = text_config(self.model.config)
        return CachedLanguageModel(decoder_parts(stock, self.model.lm_head, config))

    def compare(self, selector: TextRelevance) -> Compare:
        """By CLIP's text tower, or by the language model's words; see `load_relevance`."""
        return load_relevance(selector, self.device, self.dtype)

    def stock_inputs(self, image: np.ndarray, question: str) -> dict[str, Any]:
        """What `generate` takes, by the checkpoint's own processor, which crops by itself."""
        text = self.prompt(None).text(question)
        return dict(self._processor(images=image, text=text, return_tensors="pt"))

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self.folder, local_files_only=True)


def load_llava(
    name: str,
    *,
    precision: str = "bf16",
    device: str = "auto",
    seed: int = 0,
    options: ModelOptions | None = None,
) -> LoadedLlava:
    """Load a LLaVA-1.5 style model.

    Args:
        name: `scout`, a folder, a hub id in the local cache, `random:tiny`, `random:llava-1.5-7b`.
        precision: fp32, bf16, fp16, int8 or int4; `weights/precision.py` says what is quantized.
        device: auto (CUDA if there is one), cpu, cuda or cuda:N.
        seed: of random weights.
        options: `position_policy` "auto" means "contiguous", as in the papers. LLaVA-1.5 looks at
            squares of one size, so that `min_pixels` and `max_pixels` are refused.

    Raises:
        UserError: the model is not on this machine, is incomplete or of another architecture; the
            precision or the device is not to be had; the weights do not fit into memory.
    """
    from transformers import LlavaForConditionalGeneration

    options = options or ModelOptions()
    refuse_pixels(name, options)

    def build(
        tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype, place: torch.device
    ) -> LlavaForConditionalGeneration:
        config = fitted_config(name, tokenizer)
        return build_random(config, precision, dtype, place, seed)

    read = load_checkpoint(
        *(name, LlavaForConditionalGeneration, COMPONENTS, IMAGE_TOKEN),
        precision=precision,
        device=device,
        check=check_architecture,
        build=build,
    )
    config = read.model.config
    return LoadedLlava(
        model=read.model,
        tokenizer=read.tokenizer,
        images=ImageSettings.from_folder(read.folder, vision_config(config)),
        image_token_id=config.image_token_index,
        end_token_ids=read.end_token_ids,
        precision=precision,
        dtype=read.dtype,
        device=read.device,
        random_weights=read.random_weights,
        folder=read.folder,
        original_positions=options.position_policy == "original",
    )


def find_sizes(name: str) -> ModelSizes:
    """The sizes of a model, without its weights. Raises `UserError` as `load_llava` does."""
    if is_random(name):
        return sizes_from_config(name, random_config(name).to_dict())
    config = read_json(find_folder(name) / "config.json")
    check_architecture(name, config)
    return sizes_from_config(name, config)


def fitted_config(name: str, tokenizer: PreTrainedTokenizerBase) -> LlavaConfig:
    """A random model's configuration with the image and end tokens of its tokenizer."""
    config = random_config(name)
    config.image_token_index = cast(int, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    text = text_config(config)
    text.bos_token_id, text.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    text.pad_token_id = tokenizer.pad_token_id
    return config
