# SPDX-License-Identifier: Apache-2.0
"""What can be said of a selector without a model's weights, for whoever holds an `EngineInfo`."""

from __future__ import annotations

from collections.abc import Mapping

from svd_vlm_ros import models
from svd_vlm_ros.engine.values import EngineInfo
from svd_vlm_ros.selection import LayerSelector, make_budget, make_selector
from svd_vlm_ros.selection.relevance import TextRelevance


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
    made = make_selector(selector, **options)
    budget = make_budget(visual_tokens, token_cap)
    if isinstance(made, LayerSelector):
        made.plan(info.layers, info.visual_tokens_total, budget)
    elif isinstance(made, TextRelevance):
        models.family_of(info.model).check_relevance(made)
