# SPDX-License-Identifier: Apache-2.0
"""The sizes of a tower over tiles, of its projector and language model, from a configuration."""

from __future__ import annotations

from typing import Any

from svd_vlm_ros.planning.shapes import Decoder, Llava, Tower


def anyres_sizes(name: str, config: Any) -> Llava:
    """Sizes for planning and for choosing a precision; the patches are those of one tile."""
    text, vision = config.get_text_config(), config.vision_config
    decoder = Decoder(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads or text.num_attention_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        tied=config.tie_word_embeddings,
    )
    layers, chosen = vision.num_hidden_layers, config.vision_feature_layer
    tower = Tower(
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        layers=layers,
        layers_used=layers + 1 + chosen if chosen < 0 else chosen,
        patches=(vision.image_size // vision.patch_size) ** 2,
        patch_pixels=vision.num_channels * vision.patch_size**2,
    )
    return Llava(name, tower, decoder)
