# SPDX-License-Identifier: Apache-2.0
"""Configurations of models with random weights: the published sizes, and tiny ones."""

from __future__ import annotations

from typing import Any

from svd_vlm_ros.models.tiny import TINY_TEXT

SIZES: dict[str, dict[str, Any]] = {
    "random:smolvlm2-2.2b": {
        "scale_factor": 3,
        "vision_config": {
            "image_size": 384,
            "patch_size": 14,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": 49280,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 130_000.0},
        },
    },
    "random:smolvlm2-500m": {
        "scale_factor": 4,
        "vision_config": {
            "image_size": 512,
            "patch_size": 16,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": 49280,
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
        },
    },
}


def _tiny(patch: int, scale: int) -> dict[str, Any]:
    """Tiles of 32 pixels, with 2 x 2 visual tokens each."""
    return {
        "scale_factor": scale,
        "vision_config": {
            "image_size": 32,
            "patch_size": patch,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.2,
        },
        "text_config": {"model_type": "llama", **TINY_TEXT},
    }


# As in the published models patches need not fill a tile: here they leave 2 of 32 pixels unseen.
SIZES["random:tiny-smolvlm"] = _tiny(patch=5, scale=3)
SIZES["random:tiny-idefics3"] = _tiny(patch=8, scale=2)
