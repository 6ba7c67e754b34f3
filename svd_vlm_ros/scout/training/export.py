# SPDX-License-Identifier: Apache-2.0
"""Writes the weights that the package ships: float16 safetensors beside the processor files."""

from __future__ import annotations

from pathlib import Path

import torch

from ..architecture import MODEL_FOLDER, save_processor
from .common import Part


@torch.no_grad()
def export(model: Part, folder: Path | None = None) -> Path:
    """Saves `model` (scout, any dtype) with its processor into `folder`, by default the package's
    own.
    """
    folder = folder or MODEL_FOLDER
    for unused in (model.model.vision_tower.encoder.layers[-1],):
        for weight in unused.parameters():  # layer -1 is never computed; zeros say so, and compress
            weight.zero_()
    model.half().eval().save_pretrained(folder, safe_serialization=True)
    save_processor(folder)
    return folder
