# SPDX-License-Identifier: Apache-2.0
"""Where a model lies on this machine and whether it is whole: no torch, no network."""

from __future__ import annotations

import json
from pathlib import Path

import svd_vlm_ros

TOKENIZERS = ("tokenizer.json", "tokenizer.model")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def find_model(name: str) -> tuple[Path | None, str]:
    """The folder of a model and what is wrong with it ("": nothing). (None, ""): it is not here.

    `name` is as for `--model`: scout, random:*, a folder, or a hub id that `svd-vlm download` has
    fetched.
    """
    if name == "scout" or name.startswith("random:"):
        folder: Path | None = Path(svd_vlm_ros.__file__).parent / "scout" / "model"
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        folder = _cached(name)
    if folder is None:
        return None, ""
    if name.startswith("random:"):
        return folder, "" if _has(folder, TOKENIZERS) else f"no tokenizer in {folder}"
    return folder, find_problem(folder)


def find_problem(folder: Path) -> str:
    """One sentence about what is missing in a model's folder; empty where nothing is."""
    if not (folder / "config.json").is_file():
        return f"no config.json in {folder}"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            wanted = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            return f"{index} is broken"
    else:
        wanted = ["model.safetensors"]
    missing = [weights for weights in wanted if not (folder / weights).is_file()]
    if missing:
        return f"{len(missing)} of {len(wanted)} weight files missing ({missing[0]}) in {folder}"
    if not _has(folder, TOKENIZERS):
        return f"no tokenizer ({' or '.join(TOKENIZERS)}) in {folder}"
    if not _has(folder, PROCESSORS):
        return f"no picture settings ({' or '.join(PROCESSORS)}) in {folder}"
    return ""


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)


def _cached(name: str) -> Path | None:
    """The snapshot of a hub model in the cache that its branch `main` points to."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None
