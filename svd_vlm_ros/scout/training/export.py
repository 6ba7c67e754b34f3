# SPDX-License-Identifier: Apache-2.0
"""Writes the weights that the package ships, float16 safetensors beside the processor files, and
reads them back for more training.

The oracle is shipped too, beside this file: without it the language stage could not go on.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..architecture import MODEL_FOLDER, save_processor
from .common import Part
from .language import Oracle

ORACLE_FILE = Path(__file__).parent / "oracle.safetensors"


@torch.no_grad()
def export(model: Part, oracle: Oracle, folder: Path | None = None) -> Path:
    """Saves `model` (scout, any dtype) with its processor into `folder`.

    None: into the package, and the oracle with it.
    """
    if folder is None:
        rows = {name: row.half().contiguous() for name, row in oracle.state_dict().items()}
        save_file(rows, ORACLE_FILE)
        folder = MODEL_FOLDER
    # Layer -1 of the tower is never computed; zeros show that, and compress.
    for weight in model.model.vision_tower.encoder.layers[-1].parameters():
        weight.zero_()
    for part in (model.config.text_config, model.config.vision_config):
        part.dtype = None  # stands once, for the whole model
    model.half().eval().save_pretrained(folder, safe_serialization=True)
    save_processor(folder)
    return folder


def shipped() -> tuple[Part, Oracle]:
    """The package's model and oracle, float32, to go on from."""
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(
        MODEL_FOLDER, dtype=torch.float32, local_files_only=True
    )
    oracle = Oracle()
    oracle.load_state_dict({name: row.float() for name, row in load_file(ORACLE_FILE).items()})
    return model.train(), oracle
