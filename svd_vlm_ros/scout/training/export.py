# SPDX-License-Identifier: Apache-2.0
"""Writes trained weights as the package ships them: float16 safetensors beside the processor files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..architecture import MODEL_FOLDER, save_processor


@torch.no_grad()
def export(model: nn.Module, folder: Path | None = None) -> Path:
    """Saves `model` (scout, any dtype) with its processor into `folder`, by default the package's own."""
    folder = folder or MODEL_FOLDER
    for unused in (model.model.vision_tower.encoder.layers[-1],):
        for weight in unused.parameters():  # layer -1 is never computed; zeros say so, and compress
            weight.zero_()
    model.half().eval().save_pretrained(folder, safe_serialization=True)
    save_processor(folder)
    return folder
