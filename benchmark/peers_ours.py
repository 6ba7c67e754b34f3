# SPDX-License-Identifier: Apache-2.0
"""This package as a worker of `peers.py`, through the functions that its engine calls.

It also makes the weights that all peers share.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers_common import IMAGE_SIZE, main

from svd_vlm_ros.heap import give_back
from svd_vlm_ros.models.files import scout_folder
from svd_vlm_ros.models.images import Framing, ProcessedImage
from svd_vlm_ros.models.llava.loading import load_llava
from svd_vlm_ros.models.llava.random import build_random, random_config
from svd_vlm_ros.models.llava.vision import VisionTower
from svd_vlm_ros.models.tokens import Tokens
from svd_vlm_ros.models.weights.packed import pack


@torch.no_grad()
def convert(options: dict[str, Any]) -> None:
    """Random weights of LLaVA-1.5-7B's sizes with fewer layers, as a checkpoint in float16."""
    from transformers import AutoTokenizer

    folder = Path(options["path"])
    tokenizer = AutoTokenizer.from_pretrained(scout_folder(), local_files_only=True)
    config = random_config("random:llava-1.5-7b")
    config.text_config.num_hidden_layers = options["layers"]
    config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    model = build_random(config, "fp16", torch.float16, torch.device("cpu"), 0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = (scout_folder() / "processor_config.json").read_text(encoding="utf-8")
    assert json.loads(settings)["image_processor"]["crop_size"]["height"] == IMAGE_SIZE
    (folder / "processor_config.json").write_text(settings, encoding="utf-8")


class Ours:
    @torch.inference_mode()
    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        loaded = load_llava(options["weights"], precision=options["precision"], device="cpu")
        pack(loaded.model)
        give_back()
        self._head = loaded.model.lm_head
        self._tower = VisionTower(loaded.model)
        self._decoder = loaded.language_model().decoder
        self._cache = self._decoder.workspace()
        size, patch = loaded.images.size, loaded.images.patch
        self._framing = Framing(size, size, 0.0, 0.0, patch, patch, loaded.images.grid)
        tower = loaded.model.model.vision_tower.embeddings.patch_embedding
        self.about = {
            "version": f"torch {torch.__version__}",
            "head": _kind(self._head),
            "tower in": _short(tower.weight.dtype),
            "computes in": _short(self._decoder.dtype),
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
        if any(type(m).__module__.startswith("bitsandbytes") for m in loaded.model.modules()):
            self.about["unrestricted"] = "bitsandbytes asks the CPU alone what it may use"
        if loaded.precision != options["precision"]:
            self.about["chosen"] = loaded.precision

    def read(self, rows: np.ndarray) -> np.ndarray:
        self._cache.begin(None, len(rows) + 64)
        return self.token(rows)

    @torch.inference_mode()
    def token(self, row: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(row).to(self._decoder.dtype)
        hidden = self._decoder.read(Tokens.in_order(rows), self._cache)
        logits: np.ndarray = self._head(hidden[-1:])[0].float().numpy()
        return logits

    @torch.inference_mode()
    def tower(self, pixels: np.ndarray) -> np.ndarray:
        patches = self._tower(ProcessedImage(torch.from_numpy(pixels), self._framing)).patches
        found: np.ndarray = patches.float().numpy()
        return found


def _kind(layer: torch.nn.Module) -> str:
    """The dtype of a layer's weights; the class of a layer that keeps them in no tensor."""
    weight, kind = getattr(layer, "weight", None), type(layer).__name__
    if isinstance(weight, torch.Tensor):
        return _short(weight.dtype)
    return "fp16" if kind == "PackedHalf" else kind


def _short(dtype: torch.dtype) -> str:
    """As precisions are called: fp32, bf16."""
    return str(dtype).removeprefix("torch.").replace("float", "fp").replace("bfp", "bf")


if __name__ == "__main__":
    main(convert, Ours)
