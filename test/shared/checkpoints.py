# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the layout of `llava-hf/llava-1.5-7b-hf`, random and tiny, for the tests.

Everything is there that the original has: a Llama tokenizer with byte fallback, `<image>` and
`<pad>` added behind its vocabulary, the processor's three files, safetensors under the hub's names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from svd_vlm_ros.models.llava.random import build_random

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CORPUS = (
    "USER: is the path clear ahead? ASSISTANT: Yes",
    "USER: what colour is the car on the left? ASSISTANT: red",
    "USER: describe the scene. ASSISTANT: grass under a clear sky with a red car on the left.",
    "how many people are there, and where is the nearest cone? No, none, 2 of them.",
)

# Two shapes that share as little as possible.
SHAPES: dict[str, dict[str, Any]] = {
    "336px-576-patches-4-heads": {
        "vision": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 336,
            "patch_size": 14,
        },
        "text": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        },
    },
    "112px-49-patches-grouped-heads": {
        "vision": {
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 112,
            "patch_size": 16,
        },
        "text": {
            "hidden_size": 192,
            "intermediate_size": 320,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
        },
    },
}


def make_tokenizer() -> LlamaTokenizer:
    """A Llama tokenizer with a small vocabulary and every byte."""
    special = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=450,
            special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
        ),
    )
    model = json.loads(trained.to_str())["model"]
    return LlamaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        pad_token=AddedToken("<pad>", special=True),
        extra_special_tokens=["<image>"],
        add_bos_token=True,
    )


def make_checkpoint(folder: Path, shape: str, seed: int = 0) -> Path:
    """Write a checkpoint with random weights (float32) and return its folder."""
    tokenizer = make_tokenizer()
    parts = SHAPES[shape]
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**parts["vision"]),
        text_config=LlamaConfig(
            vocab_size=-(-len(tokenizer) // 64) * 64,
            max_position_embeddings=1024,
            initializer_range=0.15,  # wide, so that the answers depend on image and question
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **parts["text"],
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(parts["vision"]["image_size"] // parts["vision"]["patch_size"]) ** 2,
    )
    model = build_random(config, "fp32", torch.float32, torch.device("cpu"), seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "LlamaTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write_processor(folder, parts["vision"]["image_size"], parts["vision"]["patch_size"])
    return folder


def write_processor(folder: Path, size: int, patch: int) -> None:
    """The processor's files, as on the hub: images apart from the rest."""
    images = {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": MEAN,
        "image_processor_type": "CLIPImageProcessor",
        "image_std": STD,
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": size},
    }
    processor = {
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": patch,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").write_text(json.dumps(processor))


def load_stock(folder: Path) -> LlavaForConditionalGeneration:
    """The same weights in transformers' own hands, float32."""
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
