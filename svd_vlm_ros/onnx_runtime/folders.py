# SPDX-License-Identifier: Apache-2.0
"""Whether a model's name is a folder that `svd-vlm export onnx` has written."""

from __future__ import annotations

from pathlib import Path

from svd_vlm_ros.models.files import INDEX, SCOUT, WEIGHTS, is_random
from svd_vlm_ros.onnx_runtime.manifest import NAME


def is_export(model: str) -> bool:
    """Whether a model is an exported folder; what is in it is not looked at."""
    if model == SCOUT or is_random(model) or not model.strip():
        return False
    folder = Path(model).expanduser()
    weights = any((folder / name).is_file() for name in (WEIGHTS, INDEX))
    return (folder / NAME).is_file() and not weights
