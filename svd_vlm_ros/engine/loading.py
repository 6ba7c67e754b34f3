# SPDX-License-Identifier: Apache-2.0
"""What an engine is made of, from the arguments of `SceneEngine.load`."""

from __future__ import annotations

from typing import Any

import torch

from svd_vlm_ros import models
from svd_vlm_ros.engine.values import EngineInfo
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.heap import give_back
from svd_vlm_ros.models.interface import LoadedModel
from svd_vlm_ros.models.loading import resolve_device
from svd_vlm_ros.models.weights.packed import pack
from svd_vlm_ros.models.weights.precision import quantized_layers, weight_bytes
from svd_vlm_ros.models.weights.precision_choice import check_wish, choose_precision
from svd_vlm_ros.selection import Selector, make_budget, make_selector

ASPECTS = ("pad", "crop")


def load_parts(
    model: str,
    *,
    precision: str,
    selector: str,
    visual_tokens: int | float,
    token_cap: int,
    device: str,
    aspect: str,
    cpu_threads: int,
    selector_options: dict[str, Any] | None,
    seed: int,
) -> tuple[LoadedModel, EngineInfo, Selector]:
    """Load a model and make a selector; see `SceneEngine.load` for the arguments.

    What can be checked without the weights is checked before they are loaded.

    Returns:
        The model, what the engine will say of itself, and the selector.

    Raises:
        UserError: the model is not on this machine, or an argument is out of its range.
    """
    if aspect not in ASPECTS:
        raise UserError(f"There is no aspect '{aspect}': take one of {', '.join(ASPECTS)}.")
    if cpu_threads < 0:
        raise UserError(f"cpu_threads must be 0 or more, not {cpu_threads}.")
    make_budget(visual_tokens, token_cap)
    options = dict(selector_options or {})
    if selector == "random":
        options.setdefault("seed", seed)
    chosen = make_selector(selector, **options)
    if cpu_threads:
        torch.set_num_threads(cpu_threads)
    wish, place = check_wish(precision), resolve_device(device)
    family = models.family_of(model)
    choice = choose_precision(wish, family.sizes(model), place)
    loaded = family.load(model, precision=choice.precision, device=device, seed=seed)
    if aspect not in loaded.images.aspects:
        known = ", ".join(loaded.images.aspects)
        raise UserError(f"{model} knows no aspect '{aspect}': take one of {known}.")
    pack(loaded.model)
    give_back()
    rows, columns = loaded.images.grid
    info = EngineInfo(
        model=model,
        precision=choice.precision,
        advice=choice.advice,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        selector=selector,
        visual_tokens=visual_tokens,
        token_cap=token_cap,
        visual_tokens_total=rows * columns,
        grid=(rows, columns),
        image_size=loaded.images.size,
        aspect=aspect,
        context=loaded.context,
        random_weights=loaded.random_weights,
        weight_bytes=weight_bytes(loaded.model),
        quantized_layers=quantized_layers(loaded.model),
    )
    return loaded, info, chosen
