# SPDX-License-Identifier: Apache-2.0
"""What of a checkpoint this package can run, and the parts of its configuration by their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import refuse_quantized

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig


def vision_config(config: LlavaConfig) -> CLIPVisionConfig:
    """The configuration of the vision tower."""
    return cast("CLIPVisionConfig", config.vision_config)


def text_config(config: LlavaConfig) -> LlamaConfig:
    """The configuration of the language model."""
    return cast("LlamaConfig", config.text_config)


def vision_layers(config: LlavaConfig) -> int:
    """How many layers of the tower lead to the hidden states that LLaVA looks at.

    Hidden state 0 is the embedding, hidden state i the output of layer i: -2 means all layers but
    the last.
    """
    chosen = cast(int, config.vision_feature_layer)
    return chosen if chosen >= 0 else vision_config(config).num_hidden_layers + 1 + chosen


def check_architecture(name: str, config: Mapping[str, Any]) -> None:
    """Raise `UserError` unless a config.json describes a LLaVA-1.5 that this package can run."""
    kind = config.get("model_type")
    vision = (config.get("vision_config") or {}).get("model_type")
    text = (config.get("text_config") or {}).get("model_type", "llama")
    if kind != "llava" or vision != "clip_vision_model" or text != "llama":
        raise UserError(
            f"The model {name} is '{kind}' (vision '{vision}', text '{text}'), not LLaVA-1.5 with "
            "a CLIP tower and a Llama language model."
        )
    if not isinstance(config.get("vision_feature_layer", -2), int):
        raise UserError(f"The model {name} mixes several vision layers, which is not supported.")
    if config.get("vision_feature_select_strategy", "default") != "default":
        raise UserError(f"The model {name} also shows its CLS token, which is not supported.")
    refuse_quantized(name, config)
