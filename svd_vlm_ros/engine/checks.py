# SPDX-License-Identifier: Apache-2.0
"""What can be said of a selector without a model's weights, for whoever holds an `EngineInfo`."""

from __future__ import annotations

from collections.abc import Mapping

from svd_vlm_ros.engine.runtimes import TORCH, runtime_named
from svd_vlm_ros.engine.values import EngineInfo
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.registry import family_of
from svd_vlm_ros.selection import LayerSelector, make_budget, selector_names
from svd_vlm_ros.selection.values import QUESTION_NEEDS


def check_fits(selector: str, info: EngineInfo) -> None:
    """Raise `UserError` unless an engine's model can run a selector that is known."""
    if selector not in selector_names() or selector in info.selectors:
        return
    made = runtime_named(info.runtime).make_selector(selector)
    if isinstance(made, LayerSelector):
        why = "drops tokens inside the language model, which can't be done in"
    else:
        needs = ", ".join(sorted(made.needs - QUESTION_NEEDS))
        why = f"needs {needs} of the vision encoder, which is not to be had from"
    known = ", ".join(info.selectors)
    raise UserError(f"The selector '{selector}' {why} {info.model}: take one of {known}.")


def check_selection(
    info: EngineInfo,
    selector: str,
    options: Mapping[str, object],
    *,
    visual_tokens: int | float,
    token_cap: int,
) -> None:
    """Raise `UserError` if an engine could not use a selector; reads no weights.

    Args:
        info: of the engine.
        selector, options: see `selection.make_selector`.
        visual_tokens, token_cap: see `SceneEngine.load`.
    """
    check_fits(selector, info)
    made = runtime_named(info.runtime).make_selector(selector, **options)
    budget = make_budget(visual_tokens, token_cap)
    if isinstance(made, LayerSelector):
        made.plan(info.layers, info.visual_tokens_total, budget)
    elif info.runtime == TORCH and "image_text" in made.needs:
        from svd_vlm_ros.selection.relevance import TextRelevance  # imports torch

        assert isinstance(made, TextRelevance)
        family_of(info.model).check_relevance(made)
