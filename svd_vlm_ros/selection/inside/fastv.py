# SPDX-License-Identifier: Apache-2.0
"""FastV: after the second layer keep what the last token looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.inside.interface import (
    PAPER_LAYERS,
    Counts,
    Kept,
    LayerPlan,
    View,
    all_layers,
    check_counts,
    fit,
    fixed_tokens,
    highest,
    scaled_stages,
    spread,
)
from svd_vlm_ros.selection.interface import Budget


@dataclass(frozen=True)
class FastV:
    """FastV (arXiv 2403.06764).

    After layer 2 of 32 the visual tokens are ranked by the attention that the last token of the
    prompt paid to each in that layer, the mean over its heads; the highest stay for all layers that
    follow. Positions stay what they were.

    A budget of M tokens is an **average over the layers**, as the papers' tables count: with 576
    tokens and 32 layers, 2 layers read all, 30 read (32 M - 2 * 576) / 30, rounded down. So less
    than 37 can't be had, and is refused. In a model of another depth the stage lies at the same
    share of it, behind the first layer at the least.

    Attributes:
        layer: how many layers of 32 read all tokens.
        counts: "average", or "kept": M tokens stay behind the stage.
    """

    name: ClassVar[str] = "fastv"
    layer: int = 2
    counts: Counts = "average"

    def __post_init__(self) -> None:
        check_counts(self.name, self.counts)
        if not 1 <= self.layer < PAPER_LAYERS:
            raise UserError(f"The fastv selector's layer is 1 to 31, not {self.layer}.")

    def plan(self, layers: int, visual_tokens: int, budget: Budget) -> LayerPlan:
        """All tokens up to the stage, the rest of the budget behind it."""
        tokens = fixed_tokens(self.name, budget)
        if tokens >= visual_tokens:
            return LayerPlan(all_layers(layers, visual_tokens), renumber=False)
        stages = scaled_stages((self.layer,), layers)

        def schedule(share: float) -> tuple[int, ...]:
            kept = max(1, int(share * visual_tokens))
            return spread(layers, visual_tokens, dict.fromkeys(stages, kept))

        return LayerPlan(fit(self.name, tokens, self.counts, schedule), renumber=False)

    def keep(self, view: View) -> Kept:
        """Keep what the last token of the prompt looks at."""
        scores = view.attention(view.text_rows()[-1:])[0]
        return Kept(highest(scores, view.keep), scores)
