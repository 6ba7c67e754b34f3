# SPDX-License-Identifier: Apache-2.0
"""What can be said of a selector without a model's weights, for whoever holds an `EngineInfo`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from svd_vlm_ros import models
from svd_vlm_ros.engine.values import EngineInfo
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection import (
    FeatureSelector,
    LayerSelector,
    Need,
    make_budget,
    make_selector,
    selector_names,
)
from svd_vlm_ros.selection.relevance import TextRelevance
from svd_vlm_ros.selection.values import QUESTION_NEEDS


def fitting_selectors(gives: frozenset[Need], prunes: bool) -> tuple[str, ...]:
    """The selectors that a model can run, the default first.

    Args:
        gives: what its vision encoder gives them.
        prunes: whether they can act inside its language model.
    """
    inside = selector_names("inside") if prunes else []
    before = [
        name
        for name in selector_names("before")
        if cast(FeatureSelector, make_selector(name)).needs - QUESTION_NEEDS <= gives
    ]
    return (*before, *inside)


def check_fits(selector: str, info: EngineInfo) -> None:
    """Raise `UserError` unless an engine's model can run a selector that is known."""
    if selector in selector_names() and selector not in info.selectors:
        raise UserError(
            f"The selector '{selector}' needs what {info.model} does not have: take one of "
            f"{', '.join(info.selectors)}."
        )


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
        selector, options: see `make_selector`.
        visual_tokens, token_cap: see `SceneEngine.load`.
    """
    check_fits(selector, info)
    made = make_selector(selector, **options)
    budget = make_budget(visual_tokens, token_cap)
    if isinstance(made, LayerSelector):
        made.plan(info.layers, info.visual_tokens_total, budget)
    elif isinstance(made, TextRelevance):
        models.family_of(info.model).check_relevance(made)
