# SPDX-License-Identifier: Apache-2.0
"""What families share whose model transformers has: loading, prompt, language model.

A family derives from `StockFamily` and says what is its own: which parts the model has, how images
are prepared and encoded, and what becomes of the kept rows. `docs/architecture.md` shows how by the
smallest one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import find_folder, is_random, read_json, refuse_quantized

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from svd_vlm_ros.models.chat import ChatTemplate
    from svd_vlm_ros.models.interface import (
        Compare,
        Connector,
        ImageProcessor,
        ModelOptions,
        VisionEncoder,
    )
    from svd_vlm_ros.models.language.model import CachedLanguageModel
    from svd_vlm_ros.models.prompt import Prompt
    from svd_vlm_ros.planning.shapes import ModelSizes
    from svd_vlm_ros.selection.relevance import TextRelevance


@dataclass(frozen=True, eq=False)
class LoadedStock:
    """A model of transformers ready to run; see `interface.LoadedModel`.

    Attributes:
        family: what it is of.
        original_positions: whether the kept tokens keep their position ids; else they close ranks.
        template: of its prompts.
    """

    family: StockFamily
    model: Any
    tokenizer: PreTrainedTokenizerBase
    images: ImageProcessor
    template: ChatTemplate
    original_positions: bool
    end_token_ids: frozenset[int]
    precision: str
    dtype: torch.dtype
    device: torch.device
    random_weights: bool

    @property
    def components(self) -> Mapping[str, tuple[str, ...]]:
        """See `interface.LoadedModel`."""
        return self.family.components

    @property
    def prunes(self) -> bool:
        """See `interface.LoadedModel`."""
        return self.family.prunes

    @property
    def context(self) -> int:
        """See `checkpoint.context_of`."""
        from svd_vlm_ros.models.checkpoint import context_of

        return context_of(self.model.config.get_text_config())

    def prompt(self, system_prompt: str | None) -> Prompt:
        """By the checkpoint's chat template."""
        from svd_vlm_ros.models.prompt import Prompt

        return Prompt(self.tokenizer, self.template, system_prompt)

    def encoder(self) -> VisionEncoder:
        """The family's."""
        return self.family.encoder(self.model)

    def connector(self) -> Connector:
        """The family's."""
        return self.family.connector(self)

    def language_model(self) -> CachedLanguageModel:
        """In the loop over the layers that families share, or by transformers' own."""
        from svd_vlm_ros.models.checkpoint import decoder_parts
        from svd_vlm_ros.models.language.model import CachedLanguageModel
        from svd_vlm_ros.models.language.stock import StockDecoder

        language = self.model.get_submodule(self.family.components["language_model"][0])
        if self.family.stock_layers:
            return CachedLanguageModel(StockDecoder(language, self.model.lm_head))
        config = self.model.config.get_text_config()
        return CachedLanguageModel(decoder_parts(language, self.model.lm_head, config))

    def compare(self, selector: TextRelevance) -> Compare:
        """By the language model's words; there is no text encoder beside it."""
        from svd_vlm_ros.models.relevance import by_words

        self.family.check_relevance(selector)
        return by_words()

    def stock_inputs(self, image: np.ndarray, question: str) -> dict[str, Any]:
        """What `generate` takes, by the checkpoint's own image processor and chat template."""
        import torch

        from svd_vlm_ros.models.prompt import tokenize

        processor: Any = self.images
        layout = {"input_data_format": "channels_last", **self.family.image_options}
        made = processor.processor(images=image, return_tensors="pt", **layout)
        inputs = dict(made)
        shown = self.family.stock_image(self, inputs)
        text = self.prompt(None).text(question).replace(self.family.image_token, shown)
        ids = torch.tensor([tokenize(self.tokenizer, text)])
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return inputs | self.family.stock_extra(ids, self.model.config)


class StockFamily(ABC):
    """A family whose model transformers has, with a language model of `DecoderParts`.

    Attributes:
        model_type: what config.json says.
        text_types: the `model_type`s of language models that it can have.
        random_models: the names of its models with random weights.
        components: see `interface.LoadedModel`; "language_model" names one module, which has
            `embed_tokens`, `layers`, `norm` and `rotary_emb`.
        prunes: see `interface.LoadedModel`.
        image_token: what stands for an image's tokens.
        written: see `ChatTemplate`.
        special_tokens: those of the chat template, the image token among them. The tokenizer of
            random models, which is scout's, is given them.
        around: see `ChatTemplate`.
        chat_template: of random models, and of checkpoints without one of their own.
        original_positions: what the position policy "auto" means.
        image_options: of the image processor, for `stock_image`.
        dynamic: whether `min_pixels` and `max_pixels` mean anything to it.
        stock_layers: whether transformers' own layers read, since the loop of this package does not
            fit; the language model need not be of `DecoderParts` then, and `prunes` is False.
    """

    model_type: ClassVar[str]
    text_types: ClassVar[tuple[str, ...]]
    random_models: ClassVar[tuple[str, ...]]
    components: ClassVar[Mapping[str, tuple[str, ...]]]
    prunes: ClassVar[bool]
    image_token: ClassVar[str]
    written: ClassVar[str] = ""
    special_tokens: ClassVar[tuple[str, ...]]
    around: ClassVar[tuple[str, str]] = ("", "")
    chat_template: ClassVar[str]
    original_positions: ClassVar[bool] = False
    dynamic: ClassVar[bool] = False
    image_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    stock_layers: ClassVar[bool] = False

    @abstractmethod
    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""

    @abstractmethod
    def random_config(self, name: str) -> PretrainedConfig:
        """The architecture of one of `random_models`; token ids are set afterwards."""

    def fill(self, model: Any, seed: int) -> None:
        """Give random numbers to weights that transformers leaves at zero in a random model."""
        return

    @abstractmethod
    def image_processor(
        self, folder: Path | None, config: Any, options: ModelOptions
    ) -> ImageProcessor:
        """What prepares images; `folder` is None for random models."""

    @abstractmethod
    def encoder(self, model: Any) -> VisionEncoder:
        """The vision encoder, over the model's weights."""

    @abstractmethod
    def connector(self, loaded: LoadedStock) -> Connector:
        """The connector, over the model's weights."""

    @abstractmethod
    def stock_image(self, loaded: LoadedStock, inputs: dict[str, Any]) -> str:
        """What stands for an image in the text that transformers' own processor makes.

        Args:
            loaded: the model.
            inputs: of the image, by the image processor; what `generate` does not take is taken
                out of them.
        """

    def stock_extra(self, ids: torch.Tensor, config: Any) -> dict[str, Any]:
        """What else `generate` takes beside the ids [1, n] and the image's inputs."""
        return {}

    def is_random(self, name: str) -> bool:
        """Whether a name is one of `random_models`."""
        return name in self.random_models

    def check(self, name: str, config: Mapping[str, object]) -> None:
        """Raise `UserError` unless a config.json describes a model that this package can run."""
        text = config.get("text_config")
        kind = text.get("model_type", self.text_types[0]) if isinstance(text, Mapping) else None
        if text is not None and kind not in self.text_types:
            raise UserError(
                f"The model {name} is '{self.model_type}' with the language model '{kind}': this "
                f"package runs it with {' or '.join(self.text_types)}."
            )
        refuse_quantized(name, config)

    def relevance(self, name: str) -> str:
        """By the language model's words."""
        return "words"

    def check_relevance(self, selector: TextRelevance) -> None:
        """Raise `UserError` unless a selector compares by the language model's words."""
        if selector.relevance != "words":
            raise UserError(
                f"A model of '{self.model_type}' has no text encoder to compare a question with an "
                "image: take relevance='words'."
            )

    def sizes(self, name: str) -> ModelSizes:
        """See `interface.ModelFamily`."""
        from svd_vlm_ros.planning.configurations import sizes_from_config

        if is_random(name):
            return sizes_from_config(name, self.random_config(name).to_dict())
        return sizes_from_config(name, read_json(find_folder(name) / "config.json"))

    def load(
        self, name: str, *, precision: str, device: str, seed: int, options: ModelOptions
    ) -> LoadedStock:
        """Load a model that is on this machine; see `models.load`."""
        from svd_vlm_ros.models.chat import ChatTemplate, find_chat_template
        from svd_vlm_ros.models.checkpoint import load_checkpoint, random_weights
        from svd_vlm_ros.models.loading import refuse_pixels

        if not self.dynamic:
            refuse_pixels(name, options)
        model_class = self.model_class()

        def build(
            tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype, place: torch.device
        ) -> Any:
            config = self._fitted(self.random_config(name), tokenizer)
            how: dict[str, Any] = {"precision": precision, "dtype": dtype, "device": place}
            model = random_weights(model_class, config, self.components, seed=seed, **how)
            self.fill(model, seed)
            return model

        read = load_checkpoint(
            *(name, model_class, self.components, self.image_token),
            precision=precision,
            device=device,
            check=self.check,
            build=build,
        )
        tokenizer, folder = read.tokenizer, None if read.random_weights else read.folder
        source = None if folder is None else find_chat_template(folder, tokenizer)
        template = ChatTemplate(
            *(tokenizer, source or self.chat_template, self.image_token, self.around, self.written)
        )
        policy = options.position_policy
        original = self.original_positions if policy == "auto" else policy == "original"
        return LoadedStock(
            family=self,
            model=read.model,
            tokenizer=tokenizer,
            images=self.image_processor(folder, read.model.config, options),
            template=template,
            original_positions=original,
            end_token_ids=read.end_token_ids,
            precision=precision,
            dtype=read.dtype,
            device=read.device,
            random_weights=read.random_weights,
        )

    def _fitted(self, config: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """A random model's configuration and scout's tokenizer, fitted to each other."""
        tokenizer.add_special_tokens({"additional_special_tokens": list(self.special_tokens)})
        config.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        text = config.get_text_config()
        for part in (config, text):
            part.bos_token_id, part.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
            part.pad_token_id = tokenizer.pad_token_id
        return config
