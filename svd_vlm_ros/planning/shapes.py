# SPDX-License-Identifier: Apache-2.0
"""The sizes of a LLaVA-1.5 and of its parts, from a name or from a config.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd_vlm_ros.errors import UserError

NAMES = ("llava-1.5-7b", "llava-1.5-13b", "scout")

# What a config.json leaves out has the default of transformers' own classes; the ones on the hub
# leave out nearly everything.
_TEXT_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}
_CLIP_LARGE_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "image_size": 336,
    "patch_size": 14,
}
_KNOWN: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": {"vision_config": _CLIP_LARGE_336, "text_config": {"vocab_size": 32064}},
    "llava-1.5-13b": {
        "vision_config": _CLIP_LARGE_336,
        "text_config": {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "vocab_size": 32064,
        },
    },
}


@dataclass(frozen=True)
class Decoder:
    """A Llama-like language model: grouped attention, a gated MLP of three matrices, no biases.

    Attributes:
        hidden: width of the residual stream.
        intermediate: width inside the MLP.
        layers: decoder layers.
        heads: query heads.
        kv_heads: key and value heads.
        head_size: numbers in a head.
        vocabulary: rows of the embedding and of the output head.
        tied: whether embedding and output head are one matrix.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = False

    @property
    def linear_rows(self) -> int:
        """Outputs of all linear layers: each has a scale of its own in int8."""
        attention = (self.heads + 2 * self.kv_heads) * self.head_size + self.hidden
        return self.layers * (attention + 2 * self.intermediate + self.hidden)

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers, the output head left out."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_size * self.hidden
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding, and as many of the output head."""
        return self.vocabulary * self.hidden

    @property
    def norm_weights(self) -> int:
        """Weights of the norms."""
        return (2 * self.layers + 1) * self.hidden

    @property
    def cache_numbers(self) -> int:
        """Numbers that the cache of keys and values holds for one token."""
        return 2 * self.layers * self.kv_heads * self.head_size


@dataclass(frozen=True)
class Tower:
    """A CLIP vision tower.

    Attributes:
        hidden: width of a patch's features.
        intermediate: width inside the MLP.
        layers: layers that are stored.
        layers_used: layers that lead to the hidden states that LLaVA looks at.
        patches: patches of an image, CLS left out.
        patch_pixels: numbers that a patch is made of.
    """

    hidden: int
    intermediate: int
    layers: int
    layers_used: int
    patches: int
    patch_pixels: int

    @property
    def weights(self) -> int:
        """All weights, those of unused layers included: they are loaded all the same."""
        layer = 4 * self.hidden * (self.hidden + 1) + 4 * self.hidden
        layer += 2 * self.hidden * self.intermediate + self.intermediate + self.hidden
        outside = (self.patch_pixels + 1 + self.patches + 1 + 4) * self.hidden
        return self.layers * layer + outside


@dataclass(frozen=True)
class Llava:
    """A LLaVA-1.5: tower, projector of two layers, language model."""

    name: str
    tower: Tower
    decoder: Decoder

    @property
    def projector_weights(self) -> int:
        """Weights and biases of the projector."""
        return (self.tower.hidden + 1 + self.decoder.hidden + 1) * self.decoder.hidden

    @property
    def weights(self) -> int:
        """All weights."""
        text = self.decoder
        tables = text.embedding_weights * (1 if text.tied else 2)
        language = text.linear_weights + text.norm_weights + tables
        return self.tower.weights + self.projector_weights + language


def find_llava(name: str) -> Llava:
    """The sizes of a model.

    Args:
        name: one of `NAMES`, the same behind `random:` or as the hub calls it
            (`llava-hf/llava-1.5-7b-hf`), or a folder with a config.json.

    Raises:
        UserError: the name is not known, or the configuration is not that of a LLaVA-1.5.
    """
    short = re.sub(r"^(random:|llava-hf/)", "", name)
    short = re.sub(r"-hf$", "", short)
    if short in _KNOWN:
        return llava_from_config(short, _KNOWN[short])
    folder = Path(name).expanduser()
    if name == "scout":
        folder = Path(__file__).parents[1] / "scout" / "model"
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"There is no model '{name}' to count: take one of {', '.join(NAMES)}, or a folder "
            "with a config.json."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}).") from error
    return llava_from_config(name, config)


def llava_from_config(name: str, config: Mapping[str, Any]) -> Llava:
    """The sizes in a LLaVA's configuration (config.json as a dict).

    Raises:
        UserError: it is not the configuration of a LLaVA-1.5.
    """
    try:
        text = {**_TEXT_DEFAULTS, **config["text_config"]}
        vision = {**_VISION_DEFAULTS, **config["vision_config"]}
        heads = int(text["num_attention_heads"])
        decoder = Decoder(
            hidden=int(text["hidden_size"]),
            intermediate=int(text["intermediate_size"]),
            layers=int(text["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_size=int(text.get("head_dim") or int(text["hidden_size"]) // heads),
            vocabulary=int(text["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
        layers = int(vision["num_hidden_layers"])
        chosen = int(config.get("vision_feature_layer", -2))
        tower = Tower(
            hidden=int(vision["hidden_size"]),
            intermediate=int(vision["intermediate_size"]),
            layers=layers,
            layers_used=chosen if chosen >= 0 else layers + 1 + chosen,
            patches=(int(vision["image_size"]) // int(vision["patch_size"])) ** 2,
            patch_pixels=int(vision["num_channels"]) * int(vision["patch_size"]) ** 2,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The configuration of {name} is not that of a LLaVA-1.5 ({error!r})."
        ) from error
    return Llava(name, tower, decoder)
