# SPDX-License-Identifier: Apache-2.0
"""What an engine is made of, from the arguments of `SceneEngine.load`."""

from __future__ import annotations

from typing import Any

import torch

from svd_vlm_ros.engine.values import EngineInfo
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.heap import give_back
from svd_vlm_ros.models.llava.architecture import text_config
from svd_vlm_ros.models.llava.loading import LoadedLlava, find_sizes, load_llava, resolve_device
from svd_vlm_ros.models.llava.preprocess import ASPECTS
from svd_vlm_ros.models.weights.packed import pack
from svd_vlm_ros.models.weights.precision import quantized_layers, weight_bytes
from svd_vlm_ros.models.weights.precision_choice import check_wish, choose_precision
from svd_vlm_ros.selection import make_budget, make_selector


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
    compiled: bool,
) -> tuple[LoadedLlava, EngineInfo, Any]:
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
    if compiled and resolve_device(device).type != "cuda":
        raise UserError("compile needs CUDA: leave it out on a CPU.")
    make_budget(visual_tokens, token_cap)
    options = dict(selector_options or {})
    if selector == "random":
        options.setdefault("seed", seed)
    chooses = make_selector(selector, **options)
    if cpu_threads:
        torch.set_num_threads(cpu_threads)
    chosen = choose_precision(check_wish(precision), find_sizes(model), resolve_device(device))
    loaded = load_llava(model, precision=chosen.precision, device=device, seed=seed)
    pack(loaded.model)
    give_back()
    rows, columns = loaded.pictures.grid
    info = EngineInfo(
        model=model,
        precision=chosen.precision,
        advice=chosen.advice,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        selector=selector,
        visual_tokens=visual_tokens,
        token_cap=token_cap,
        visual_tokens_total=rows * columns,
        grid=(rows, columns),
        image_size=loaded.pictures.size,
        aspect=aspect,
        context=text_config(loaded.model.config).max_position_embeddings,
        random_weights=loaded.random_weights,
        weight_bytes=weight_bytes(loaded.model),
        quantized_layers=quantized_layers(loaded.model),
        layers=text_config(loaded.model.config).num_hidden_layers,
    )
    return loaded, info, chooses
