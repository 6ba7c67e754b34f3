# SPDX-License-Identifier: Apache-2.0
"""Models that can be planned by their name, without their files: what their config.json holds.

Only numbers that planning reads, and only if the class's default is another one. A test holds each
to the number of parameters that the hub shows for it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.config_defaults import CLIP_LARGE_336
from svd_vlm_ros.planning.configurations import sizes_from_config
from svd_vlm_ros.planning.shapes import ModelSizes

SCOUT = "scout"


def _text(hidden: int, intermediate: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **more,
    }


def _qwen3_vl(text: dict[str, Any], tied: bool, **vision: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen3_vl",
        "vision_config": {"out_hidden_size": text["hidden_size"], **vision},
        "text_config": {"num_key_value_heads": 8, **text},
        "tie_word_embeddings": tied,
    }


def _qwen2_5_vl(text: dict[str, Any], tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        "vision_config": {"hidden_size": 1280, "out_hidden_size": text["hidden_size"]},
        "text_config": text,
        "tie_word_embeddings": tied,
    }


def _smolvlm(text: dict[str, Any], scale: int, **vision: int) -> dict[str, Any]:
    text = {"vocab_size": 49280, **text}
    return {
        "model_type": "smolvlm",
        "vision_config": vision,
        "text_config": text,
        "scale_factor": scale,
    }


def _internvl(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "internvl",
        "vision_config": {"attention_bias": True},
        "text_config": {"vocab_size": 151674, "num_key_value_heads": 2, **text},
        "tie_word_embeddings": False,
    }


_VICUNA_7B = {"vocab_size": 32064}
_VICUNA_13B = _text(5120, 13824, 40, 40, vocab_size=32064)
_QWEN2_0_5B = _text(896, 4864, 24, 14)
_QWEN3_1_7B = _text(2048, 6144, 28, 16)
_QWEN3_SMALL_EYE = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}
_SIGLIP_512 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "image_size": 512,
    "patch_size": 16,
}
_SIGLIP_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "image_size": 384,
    "patch_size": 14,
}
_QWEN3_VL_2B = _qwen3_vl(_QWEN3_1_7B, True, **_QWEN3_SMALL_EYE)
_QWEN3_VL_8B = _qwen3_vl(_text(4096, 12288, 36, 32), False)

# As the hub calls them.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "llava-hf/llava-1.5-7b-hf": {
        "model_type": "llava",
        "vision_config": CLIP_LARGE_336,
        "text_config": _VICUNA_7B,
    },
    "llava-hf/llava-1.5-13b-hf": {
        "model_type": "llava",
        "vision_config": CLIP_LARGE_336,
        "text_config": _VICUNA_13B,
    },
    "llava-hf/llava-v1.6-vicuna-7b-hf": {
        "model_type": "llava_next",
        "vision_config": CLIP_LARGE_336,
        "text_config": _VICUNA_7B,
    },
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": {
        "model_type": "llava_onevision",
        "text_config": {**_QWEN2_0_5B, "num_key_value_heads": 2, "vocab_size": 152000},
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5_vl(
        _text(2048, 11008, 36, 16, num_key_value_heads=2, vocab_size=151936), True
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5_vl(
        _text(3584, 18944, 28, 28, num_key_value_heads=4), False
    ),
    "Qwen/Qwen3-VL-2B-Instruct": _QWEN3_VL_2B,
    "Qwen/Qwen3-VL-4B-Instruct": _qwen3_vl(_text(2560, 9728, 36, 32), True, **_QWEN3_SMALL_EYE),
    "Qwen/Qwen3-VL-8B-Instruct": _QWEN3_VL_8B,
    "nvidia/Cosmos-Reason2-2B": _QWEN3_VL_2B,
    "nvidia/Cosmos-Reason2-8B": _QWEN3_VL_8B,
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": _smolvlm(
        _text(960, 2560, 32, 15, num_key_value_heads=5), 4, **_SIGLIP_512
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": _smolvlm(_text(2048, 8192, 24, 32), 3, **_SIGLIP_384),
    "OpenGVLab/InternVL3-1B-hf": _internvl(_QWEN2_0_5B),
    "OpenGVLab/InternVL3-2B-hf": _internvl(_text(1536, 8960, 28, 12)),
    "google/gemma-3-4b-it": {
        "model_type": "gemma3",
        "vision_config": {
            **_SIGLIP_384,
            "image_size": 896,
            "vision_use_head": False,
        },
        "text_config": _text(2560, 10240, 34, 8),
    },
}


def short_name(name: str) -> str:
    """A model's name without who has published it and how: "qwen3-vl-2b"."""
    bare = name.lower().removeprefix("random:").rpartition("/")[2]
    return re.sub(r"(-video)?(-instruct|-it)?(-hf)?$", "", bare)


_BY_SHORT_NAME = {short_name(name): config for name, config in CONFIGURATIONS.items()}
NAMES = (*_BY_SHORT_NAME, SCOUT)


def find_sizes(name: str) -> ModelSizes:
    """The sizes of a model, which need not be on this machine.

    Args:
        name: a folder with a config.json, scout, or a name of `CONFIGURATIONS`, in full or in
            short ("qwen3-vl-2b").

    Raises:
        UserError: the name is not known, or the configuration is of no family that is.
    """
    scout = Path(__file__).parents[1] / "scout" / "model"
    path = (scout if name == SCOUT else Path(name).expanduser()) / "config.json"
    if path.is_file():
        return sizes_from_config(name, _read(path))
    config = _BY_SHORT_NAME.get(short_name(name))
    if config is None:
        raise UserError(
            f"There is no model '{name}' to plan: take one of {', '.join(NAMES)}, or a folder with "
            "a config.json."
        )
    return sizes_from_config(name, config)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}).") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no JSON object.")
    return config
