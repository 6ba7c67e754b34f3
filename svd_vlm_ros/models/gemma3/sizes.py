# SPDX-License-Identifier: Apache-2.0
"""The sizes of a Gemma 3, from its configuration."""

from __future__ import annotations

from typing import Any

from svd_vlm_ros.planning.shapes import Decoder, Llava, Tower


def gemma3_sizes(name: str, config: Any) -> Llava:
    """Sizes for planning and for choosing a precision."""
    text, vision = config.get_text_config(), config.vision_config
    decoder = Decoder(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_size=text.head_dim,
        vocabulary=text.vocab_size,
        tied=config.tie_word_embeddings,
    )
    tower = Tower(
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        layers=vision.num_hidden_layers,
        layers_used=vision.num_hidden_layers,
        patches=(vision.image_size // vision.patch_size) ** 2,
        patch_pixels=vision.num_channels * vision.patch_size**2,
    )
    return Llava(name, tower, decoder)
