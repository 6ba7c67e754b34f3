# SPDX-License-Identifier: Apache-2.0
"""The sizes of a SmolVLM, from its configuration."""

from __future__ import annotations

from typing import Any

from svd_vlm_ros.planning.shapes import Decoder, Llava, Tower

TILES = 13  # of a 4:3 or 16:9 image


def smolvlm_sizes(name: str, config: Any) -> Llava:
    """Sizes for planning and for choosing a precision."""
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
    tower = Tower(
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        layers=vision.num_hidden_layers,
        layers_used=vision.num_hidden_layers,
        patches=TILES * (vision.image_size // vision.patch_size) ** 2,
        patch_pixels=3 * vision.patch_size**2,
    )
    return Llava(name, tower, decoder)
