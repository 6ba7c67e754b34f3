# SPDX-License-Identifier: Apache-2.0
"""What an engine is made of, from the arguments of `SceneEngine.load`."""

from __future__ import annotations

from typing import Any

from svd_vlm_ros.engine.checks import check_fits
from svd_vlm_ros.engine.runtimes import runtime_named, runtime_of
from svd_vlm_ros.engine.values import EngineInfo
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.interface import LoadedModel
from svd_vlm_ros.models.options import ModelOptions, PositionPolicy
from svd_vlm_ros.selection import Selector, make_budget

ASPECTS = ("pad", "crop")
POLICIES: tuple[PositionPolicy, ...] = ("auto", "contiguous", "original")


def load_parts(
    model: str,
    *,
    runtime: str,
    precision: str,
    selector: str,
    visual_tokens: int | float,
    token_cap: int,
    device: str,
    aspect: str,
    cpu_threads: int,
    selector_options: dict[str, Any] | None,
    seed: int,
    options: ModelOptions,
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
    check_options(options)
    if cpu_threads < 0:
        raise UserError(f"cpu_threads must be 0 or more, not {cpu_threads}.")
    make_budget(visual_tokens, token_cap)
    computes = runtime_named(runtime_of(model, runtime))
    choices = dict(selector_options or {})
    if selector == "random":
        choices.setdefault("seed", seed)
    chosen = computes.make_selector(selector, **choices)
    loaded, facts = computes.load(
        model,
        precision=precision,
        device=device,
        cpu_threads=cpu_threads,
        seed=seed,
        options=options,
    )
    if aspect not in loaded.images.aspects:
        known = ", ".join(loaded.images.aspects)
        raise UserError(f"{model} knows no aspect '{aspect}': take one of {known}.")
    info = EngineInfo(
        model=model,
        precision=facts.precision,
        advice=facts.advice,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(loaded.device),
        selector=selector,
        visual_tokens=visual_tokens,
        token_cap=token_cap,
        visual_tokens_total=loaded.images.tokens,
        selectors=facts.selectors,
        grid=loaded.images.grid,
        image_size=loaded.images.size,
        aspect=aspect,
        context=loaded.context,
        random_weights=loaded.random_weights,
        weight_bytes=facts.weight_bytes,
        quantized_layers=dict(facts.quantized_layers),
        runtime=computes.name,
        options=options,
    )
    check_fits(selector, info)
    return loaded, info, chosen


def check_options(options: ModelOptions) -> None:
    """Raise `UserError` if an option is out of its range, whatever the model."""
    if options.position_policy not in POLICIES:
        raise UserError(
            f"There is no position policy '{options.position_policy}': take one of "
            f"{', '.join(POLICIES)}."
        )
    least, most = options.min_pixels, options.max_pixels
    for name, pixels in (("min_pixels", least), ("max_pixels", most)):
        if pixels is None:
            continue
        if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 1:
            raise UserError(f"{name} must be a whole number of 1 or more, not {pixels}.")
    if least is not None and most is not None and least > most:
        raise UserError(f"min_pixels ({least}) is more than max_pixels ({most}).")
