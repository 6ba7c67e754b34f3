# SPDX-License-Identifier: Apache-2.0
"""From settings to a warm engine, on the inference thread; only there a runtime is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.engine.runtimes import find_model, runtime_of
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.cameras.conversion import cv_bridge_converter
from svd_vlm_ros.node.inference.failures import first_line, is_out_of_memory

if TYPE_CHECKING:
    from svd_vlm_ros.node.parameters.settings import Settings


def check_model(name: str, runtime: str = "auto") -> None:
    """Raise `UserError` if the model or its runtime is not on this machine, before its import takes
    seconds.
    """
    runtime_of(name, runtime)
    try:
        find_model(name)
    except UserError as error:
        raise UserError(f"{error} For the latter, start the node with model:=scout.") from error


def load(settings: Settings) -> SceneEngine:
    """Load the model and run it once, so that the first question finds everything warm."""
    if settings.cpu_threads:
        cv2.setNumThreads(settings.cpu_threads)  # images are converted on the same thread
    selector, options = settings.selection
    engine = SceneEngine.load(
        settings.model,
        runtime=settings.runtime,
        precision=settings.precision,
        selector=selector,
        selector_options=options,
        visual_tokens=settings.budget,
        token_cap=settings.token_cap,
        device=settings.device,
        aspect=settings.aspect,
        system_prompt=settings.system_prompt or None,
        cpu_threads=settings.cpu_threads,
        position_policy=settings.position_policy,
        min_pixels=settings.min_pixels or None,
        max_pixels=settings.max_pixels or None,
    )
    engine.warm_up()
    cv_bridge_converter()
    return engine


def load_sentence(model: str, error: BaseException) -> str:
    """Why loading failed, in one sentence."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return (
            f"Model {model} does not fit into the device's memory: choose a smaller precision such "
            "as int4, another device, or a smaller model."
        )
    return (
        f"Model {model} could not be loaded ({type(error).__name__}: {first_line(error)}): see the "
        "log above."
    )
