# SPDX-License-Identifier: Apache-2.0
"""Where a model's files lie on this machine. Imports no torch and never touches a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import svd_vlm_ros
from svd_vlm_ros.errors import UserError

SCOUT = "scout"
RANDOM = "random:"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"


def is_random(name: str) -> bool:
    """Whether a model name asks for an architecture with random weights."""
    return name.startswith(RANDOM)


def scout_folder() -> Path:
    """The folder of the embedded model, which also holds the tokenizer of the `random:` models."""
    return Path(svd_vlm_ros.__file__).parent / "scout" / "model"


def find_folder(name: str) -> Path:
    """The folder that holds a model's files.

    Args:
        name: `scout`, a folder, a hub id whose files `svd-vlm download` has put into the local
            cache, or `random:*` (for its tokenizer).

    Raises:
        UserError: there is no such model on this machine, or some of its files are missing.
    """
    if not name.strip():
        raise UserError("The model name is empty: take scout, a hub id or a folder.")
    if is_random(name):
        return scout_folder()
    folder = scout_folder() if name == SCOUT else Path(name).expanduser()
    if folder.is_dir():
        mend = "install svd_vlm_ros again." if name == SCOUT else "is it the right folder?"
        _check_whole(name, folder, mend)
        return folder
    if name == SCOUT:
        raise UserError("The embedded model scout was not installed: install svd_vlm_ros again.")
    cached = _cached(name)
    if cached is None:
        raise UserError(
            f"The model {name} is not on this machine: fetch it with 'svd-vlm download {name}', "
            "or take the embedded model 'scout'."
        )
    _check_whole(name, cached, f"fetch the rest with 'svd-vlm download {name}'.")
    return cached


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `UserError` if it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}): fetch the model again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: fetch the model again.")
    return content


def refuse_quantized(name: str, config: Mapping[str, object]) -> None:
    """Raise `UserError` if a config.json says that the weights are quantized already."""
    if "quantization_config" in config:
        raise UserError(
            f"The weights of {name} are quantized already: take the original ones, they are "
            "quantized while they load."
        )


def _check_whole(name: str, folder: Path, remedy: str) -> None:
    """Weights only ever come from safetensors: pickled ones can run code while they are read."""
    if not (folder / "config.json").is_file():
        raise UserError(f"The model {name} has no config.json in {folder}: {remedy}")
    wanted = {WEIGHTS}
    if (folder / INDEX).is_file():
        wanted = set(read_json(folder / INDEX).get("weight_map", {}).values()) or wanted
    missing = sorted(file for file in wanted if not (folder / file).is_file())
    if not missing:
        return
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"The model {name} has pickled weights (.bin) only, which are never loaded: take a "
            "checkpoint with safetensors, or convert it."
        )
    raise UserError(
        f"The model {name} lacks {len(missing)} of {len(wanted)} weight files ({missing[0]}) in "
        f"{folder}: {remedy}"
    )


def _cached(name: str) -> Path | None:
    """The folder of a hub model's newest snapshot in the local cache of huggingface_hub."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None
