# SPDX-License-Identifier: Apache-2.0
"""Which family a model is of, by its name or by the `model_type` of its config.json.

Imports no torch; a family's modules are imported when a model of it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import find_folder, is_random, read_json

if TYPE_CHECKING:
    from svd_vlm_ros.models.interface import LoadedModel, ModelFamily, ModelOptions
    from svd_vlm_ros.planning.shapes import ModelSizes

# A new family is one line here: its model_type, and the module that has its `FAMILY`.
_MODULES = {
    "llava": "svd_vlm_ros.models.llava",
    "gemma3": "svd_vlm_ros.models.gemma3",
    "idefics3": "svd_vlm_ros.models.idefics3",
    "internvl": "svd_vlm_ros.models.internvl",
    "llava_next": "svd_vlm_ros.models.llava_next",
    "llava_onevision": "svd_vlm_ros.models.llava_onevision",
    "qwen2_5_vl": "svd_vlm_ros.models.qwen2_5_vl",
    "qwen3_vl": "svd_vlm_ros.models.qwen3_vl",
    "smolvlm": "svd_vlm_ros.models.smolvlm",
}
_families: dict[str, ModelFamily] = {}


def register(family: ModelFamily) -> None:
    """Let models of a family be loaded, by everything in this process.

    Args:
        family: takes the place of one that was registered for the same `model_type`.
    """
    _families[family.model_type] = family


def model_types() -> list[str]:
    """The `model_type`s that can be loaded."""
    return [*_MODULES, *(name for name in _families if name not in _MODULES)]


def family_of(name: str) -> ModelFamily:
    """The family of a model.

    Args:
        name: scout, a folder, a hub id in the local cache, or random:*.

    Raises:
        UserError: it is not on this machine, or of no known family.
    """
    if not is_random(name):
        return family_of_config(name, read_json(find_folder(name) / "config.json"))
    families = [_family(model_type) for model_type in model_types()]
    for family in families:
        if family.is_random(name):
            return family
    known = [each for family in families for each in family.random_models]
    raise UserError(f"There is no random model '{name}': take one of {', '.join(known)}.")


def family_of_config(name: str, config: Mapping[str, object]) -> ModelFamily:
    """The family that a config.json names, which has checked it. `UserError`: it can't run."""
    model_type = str(config.get("model_type"))
    if model_type not in model_types():
        raise UserError(
            f"The model {name} is of the family '{model_type}', which this package does not run: "
            f"take a model of {', '.join(model_types())}."
        )
    family = _family(model_type)
    family.check(name, config)
    return family


def load(
    name: str,
    *,
    precision: str = "bf16",
    device: str = "auto",
    seed: int = 0,
    options: ModelOptions | None = None,
) -> LoadedModel:
    """Load a model of any family. Nothing is fetched.

    Args:
        name: see `family_of`.
        precision: fp32, bf16, fp16, int8 or int4.
        device: auto (CUDA if there is one), cpu, cuda or cuda:N.
        seed: of random weights.
        options: of the family; None: as they are.

    Raises:
        UserError: the model is not on this machine, is incomplete or of no known family; the
            precision or the device is not to be had; the weights do not fit into memory.
    """
    from svd_vlm_ros.models.interface import ModelOptions

    family, options = family_of(name), options or ModelOptions()
    return family.load(name, precision=precision, device=device, seed=seed, options=options)


def find_sizes(name: str) -> ModelSizes:
    """The sizes of a model, without its weights. Raises `UserError` as `load` does."""
    return family_of(name).sizes(name)


def _family(model_type: str) -> ModelFamily:
    if model_type not in _families:
        register(importlib.import_module(_MODULES[model_type]).FAMILY)
    return _families[model_type]
