# SPDX-License-Identifier: Apache-2.0
"""PyramidDrop: keep a share of the visual tokens at each of three stages."""

from __future__ import annotations

from collections.abc import Sequence
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
class PyramidDrop:
    """PyramidDrop (arXiv 2410.17247).

    After layers 8, 16 and 24 of 32 the visual tokens are ranked by the attention of the last token
    of the instruction, computed with the projections of the layer that comes next (mean over its
    heads), and the highest stay. The tokens that stay are numbered anew.

    Each stage keeps the same share of what it finds; the paper's .5 gives 576, 288, 144 and 72
    tokens, 270 on average. A budget of M is such an **average over the layers**: the share is the
    largest that keeps to it. With these stages the average can't fall below 145 of 576; for less
    the stages have to come earlier (`stages`), as re-runs of the method at 128 and 64 must have
    done without saying where. In a model of another depth they lie at the same shares of it.

    Attributes:
        stages: how many layers of 32 come before each stage, ascending.
        counts: "average", or "kept": M tokens are left behind the last stage.
    """

    name: ClassVar[str] = "pyramiddrop"
    stages: Sequence[int] = (8, 16, 24)
    counts: Counts = "average"

    def __post_init__(self) -> None:
        check_counts(self.name, self.counts)
        ascending = list(self.stages) == sorted(set(self.stages))
        if (
            not self.stages
            or not ascending
            or not 1 <= self.stages[0] <= self.stages[-1] < PAPER_LAYERS
        ):
            raise UserError(
                f"The pyramiddrop selector's stages are ascending layers from 1 to 31, not "
                f"{self.stages}."
            )

    def plan(self, layers: int, visual_tokens: int, budget: Budget) -> LayerPlan:
        """Each stage keeps the same share."""
        tokens = fixed_tokens(self.name, budget)
        if tokens >= visual_tokens:
            return LayerPlan(all_layers(layers, visual_tokens), "next")
        stages = scaled_stages(self.stages, layers)

        def schedule(share: float) -> tuple[int, ...]:
            kept = {
                layer: max(1, int(visual_tokens * share ** (number + 1)))
                for layer, number in stages.items()
            }
            return spread(layers, visual_tokens, kept)

        return LayerPlan(fit(self.name, tokens, self.counts, schedule), "next")

    def keep(self, view: View) -> Kept:
        """Keep what the last token of the instruction would look at."""
        scores = view.attention(view.text_rows()[-1:])[0]
        return Kept(highest(scores, view.keep), scores)
