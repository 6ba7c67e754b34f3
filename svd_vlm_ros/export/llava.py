# SPDX-License-Identifier: Apache-2.0
"""What of a LLaVA-1.5 goes into which graph, and what its runtime has to know of prompt and images.

source = LlavaSource.open("scout", Numbers.of("int4"))
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.decoder import DecoderShape
from svd_vlm_ros.export.precision import Numbers
from svd_vlm_ros.export.weights import Checkpoint, LanguagePart, Part, RandomWeights, Source
from svd_vlm_ros.models.files import SCOUT, find_folder, is_random, read_json
from svd_vlm_ros.models.llava.architecture import (
    check_architecture,
    text_config,
    vision_config,
)
from svd_vlm_ros.models.llava.prompt import IMAGE_TOKEN, TEMPLATE

if TYPE_CHECKING:
    from transformers import LlavaConfig, PreTrainedTokenizerBase

    from svd_vlm_ros.models.llava.preprocess import ImageSettings

LANGUAGE, TOWER = "model.language_model.", "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
COPIED = (
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("processor_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template.json", "chat_template.jinja"),
)


@dataclass(frozen=True, eq=False)
class LlavaSource:
    """A LLaVA that is to be exported: its configuration and where its weights come from.

    Attributes:
        folder: of the files; scout's for random models.
        config: of the model.
        weights: by transformers' names.
        images: how images become pixel values.
    """

    name: str
    folder: Path
    config: LlavaConfig
    tokenizer: PreTrainedTokenizerBase
    weights: Source
    images: ImageSettings

    @classmethod
    def open(cls, name: str, numbers: Numbers, seed: int = 0) -> LlavaSource:
        """Read all but the weights. Raises `UserError` as `load_llava` does."""
        from transformers import AutoTokenizer, LlavaConfig

        from svd_vlm_ros.models.llava.loading import fitted_config
        from svd_vlm_ros.models.llava.preprocess import ImageSettings
        from svd_vlm_ros.models.loading import quietly

        folder = find_folder(name)
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            weights: Source
            if is_random(name):
                config = fitted_config(name, tokenizer)
                weights = _random(config, numbers, seed)
            else:
                check_architecture(name, read_json(folder / "config.json"))
                config = LlavaConfig.from_pretrained(folder, local_files_only=True)
                weights = Checkpoint(name, folder)
        images = ImageSettings.from_folder(folder, vision_config(config))
        source = cls(name, folder, config, tokenizer, weights, images)
        source._check_tokens()
        return source

    def shape(self) -> DecoderShape:
        """Of the language model. Raises `UserError` if it can't be exported yet."""
        return DecoderShape.from_config(text_config(self.config))

    def language(self, on_read: Callable[[int], object]) -> LanguagePart:
        """The language model's weights; `on_read` is told how many numbers were read."""
        tied = bool(getattr(self.config, "tie_word_embeddings", False))
        return LanguagePart(self.weights, LANGUAGE, on_read, tied=tied)

    def tower(self, on_read: Callable[[int], object]) -> Part:
        """The vision tower's weights."""
        return Part(self.weights, TOWER, on_read)

    def projector(self, on_read: Callable[[int], object]) -> Part:
        """The projector's weights."""
        return Part(self.weights, PROJECTOR, on_read)

    def sizes(self) -> dict[str, Any]:
        """See `Manifest.sizes`."""
        shape, vision = self.shape(), vision_config(self.config)
        return {
            "hidden": shape.hidden,
            "layers": shape.layers,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "vocabulary": shape.vocabulary,
            "context": text_config(self.config).max_position_embeddings,
            "patches": list(self.images.grid),
            "image_size": self.images.size,
            "vision_width": vision.hidden_size,
            "vision_heads": vision.num_attention_heads,
            "class_token": True,
        }

    def prompt(self) -> dict[str, Any]:
        """See `Manifest.prompt`: all that `models/prompt.py` asks a tokenizer of transformers."""
        tokenizer = self.tokenizer
        special = {str(each) for each in tokenizer.added_tokens_decoder.values() if each.special}
        special |= {*tokenizer.all_special_tokens, IMAGE_TOKEN}
        return {
            "kind": "llava",
            "image_token": IMAGE_TOKEN,
            "image_token_id": self._image_token_id(),
            "end_token_ids": sorted(self._end_tokens()),
            "template": {
                "user": TEMPLATE.user,
                "system": TEMPLATE.system,
                "answer": TEMPLATE.answer,
            },
            "bos_token": tokenizer.bos_token,
            "unk_token_id": tokenizer.unk_token_id,
            "special_tokens": sorted(filter(None, special)),
            "special_ids": sorted(int(each) for each in tokenizer.all_special_ids),
        }

    def preprocess(self) -> dict[str, Any]:
        """See `Manifest.preprocess`."""
        images = self.images
        return {
            "size": images.size,
            "patch": images.patch,
            "mean": list(images.mean),
            "std": list(images.std),
            "rescale": images.rescale,
            "resample": images.resample,
        }

    def write_files(self, folder: Path) -> None:
        """Tokenizer and settings. The tokenizer is what transformers makes of the files."""
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"The tokenizer of {self.name} has no tokenizer.json, which a runtime without "
                "transformers needs: fetch the model again."
            )
        backend.save(str(folder / "tokenizer.json"))
        for name in COPIED:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        if is_random(self.name):
            text = self.config.to_json_string(use_diff=False)
            (folder / "config.json").write_text(text, encoding="utf-8")

    def license(self) -> str | None:
        """Of the weights, if it is known."""
        return "Apache-2.0" if self.name == SCOUT else None

    def _image_token_id(self) -> int:
        found: Any = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        return int(found)

    def _end_tokens(self) -> frozenset[int]:
        from transformers import GenerationConfig

        from svd_vlm_ros.models.loading import end_tokens

        if not is_random(self.name) and (self.folder / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(self.folder, local_files_only=True)
        else:
            generation = GenerationConfig.from_model_config(self.config)
        ends: Any = generation.eos_token_id
        return end_tokens(ends, self.tokenizer)

    def _check_tokens(self) -> None:
        found, wanted = self._image_token_id(), self.config.image_token_index
        if found != wanted:
            raise UserError(
                f"The tokenizer of {self.name} has <image> at {found}, its model expects it at "
                f"{wanted}: the files do not belong together."
            )


def _random(config: LlavaConfig, numbers: Numbers, seed: int) -> RandomWeights:
    """The weights that `models.load` makes of a name, in the dtype that it has there."""
    import torch

    from svd_vlm_ros.models.llava.random import build_random

    dtype = torch.float16 if numbers.precision == "fp16" else torch.float32
    return RandomWeights(
        lambda take: build_random(config, "fp32", dtype, torch.device("cpu"), seed, take)
    )
