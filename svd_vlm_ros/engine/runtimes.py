# SPDX-License-Identifier: Apache-2.0
"""Which runtime runs a model, and whether it is there. No torch in it until one is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import find_folder
from svd_vlm_ros.models.runtime import Runtime
from svd_vlm_ros.onnx_runtime.folders import is_export

AUTO, TORCH, ONNX = "auto", "torch", "onnx"
RUNTIMES = (AUTO, TORCH, ONNX)

# What each runtime imports, and how it is had.
_NEEDS = {
    TORCH: (
        ("torch", "transformers"),
        "install the package with torch and transformers, or take a model that 'svd-vlm export "
        "onnx' has written, with the runtime onnx",
    ),
    ONNX: (
        ("onnxruntime", "tokenizers"),
        "install them with 'pip install \"svd_vlm_ros[onnx]\"', or take the runtime torch and the "
        "model that the folder was exported from",
    ),
}
_MODULES = {
    TORCH: "svd_vlm_ros.models.torch_runtime",
    ONNX: "svd_vlm_ros.onnx_runtime.runtime",
}


def runtime_of(model: str, wish: str = AUTO) -> str:
    """The runtime that runs a model; nothing is imported.

    Args:
        model: see `SceneEngine.load`.
        wish: "auto": onnx if the model is a folder that was exported, else torch.

    Raises:
        UserError: there is no such runtime, it does not run this model, or what it imports is not
            installed.
    """
    if wish not in RUNTIMES:
        raise UserError(f"There is no runtime '{wish}': take one of {', '.join(RUNTIMES)}.")
    exported = is_export(model)
    name = (ONNX if exported else TORCH) if wish == AUTO else wish
    if name == ONNX and not exported:
        raise UserError(
            f"The runtime onnx runs a folder that 'svd-vlm export onnx' has written, and {model} "
            "is none (it has no manifest.json): export the model, or take the runtime torch."
        )
    if name == TORCH and exported:
        raise UserError(
            f"{model} is exported for the runtime onnx: take that one (or auto), or the model that "
            "it was exported from."
        )
    modules, remedy = _NEEDS[name]
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        what = " and ".join(missing)
        raise UserError(
            f"The runtime {name} needs {what}, which {'are' if len(missing) > 1 else 'is'} not "
            f"installed: {remedy}."
        )
    return name


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def find_model(model: str) -> Path:
    """The folder of a model's files, exported or not. `UserError`: it is not on this machine."""
    return Path(model).expanduser() if is_export(model) else find_folder(model)


def runtime_named(name: str) -> Runtime:
    """A runtime by its name, "torch" or "onnx"; it is imported now."""
    module: Any = importlib.import_module(_MODULES[name])
    found: Runtime = module.RUNTIME
    return found
