# SPDX-License-Identifier: Apache-2.0
"""SparseVLM: text tokens that belong to the image vote; part of what is dropped is recycled."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

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
)
from svd_vlm_ros.selection.interface import Budget

STAGES = (2, 6, 15)
# Tokens kept at each stage, of 576, for an average over the layers; recycled ones come on top.
TABLE = {64: (66, 30, 17), 128: (303, 110, 36), 192: (300, 200, 110), 576: (576, 576, 576)}
PAPER_TOKENS = 576
RECYCLED = 0.3  # of the dropped tokens
PER_CLUSTER = 10
NEIGHBOURS = 5


@dataclass(frozen=True)
class SparseVLM:
    """SparseVLM (arXiv 2410.04417), version 1.

    **Raters.** In front of the language model each visual token spreads a softmax over the tokens
    of the text, by their scalar products; text tokens that get more than the mean are the raters.
    **Stages.** After layers 2, 6 and 15 of 32 the visual tokens are ranked by the raters' mean
    attention in the layer that just ran (mean over its heads), and the highest stay: 300, 200 and
    110 for a budget of 192; 303, 110, 36 for 128; 66, 30, 17 for 64.
    **Recycling.** The better 30 % of those that are dropped (and one more) are clustered, ten to a
    cluster (and one cluster more), and each cluster comes back as the mean of its tokens, behind
    the kept ones. Clusters are found by density peaks: density exp(-mean squared distance to the 5
    nearest), times the distance to the nearest denser one; the tokens where that product is largest
    are the centres, and each token joins the nearest.
    The tokens that stay are numbered anew.

    A budget of M is an **average over the layers**, recycled tokens included; so counted, the three
    published schedules give 192.0, 128.6 and 64.8. Read as "in front of layers 2, 6, 15, counted
    from 0", which these averages bear out. For other budgets, numbers of patches or depths the
    table's rows are interpolated (on a logarithmic scale; below 64 they shrink in proportion), and
    the largest schedule that keeps to the budget is taken.

    Attributes:
        recycle: bring dropped tokens back.
        counts: "average", or "kept": M tokens, recycled ones included, are left in the last layer.
    """

    name: ClassVar[str] = "sparsevlm"
    recycle: bool = True
    counts: Counts = "average"

    def __post_init__(self) -> None:
        check_counts(self.name, self.counts)

    def plan(self, layers: int, visual_tokens: int, budget: Budget) -> LayerPlan:
        """The published schedule, or one between them."""
        tokens = fixed_tokens(self.name, budget)
        if tokens >= visual_tokens:
            return LayerPlan(all_layers(layers, visual_tokens))
        published = layers == PAPER_LAYERS and visual_tokens == PAPER_TOKENS and self.recycle
        if published and tokens in TABLE and self.counts == "average":
            return LayerPlan(self._counts(layers, visual_tokens, TABLE[tokens]))

        def schedule(share: float) -> tuple[int, ...]:
            return self._counts(layers, visual_tokens, _table(share * PAPER_TOKENS))

        return LayerPlan(fit(self.name, tokens, self.counts, schedule))

    def _counts(self, layers: int, visual_tokens: int, kept: tuple[float, ...]) -> tuple[int, ...]:
        stages = scaled_stages(STAGES, layers)
        counts, current = [], visual_tokens
        for layer in range(layers):
            if layer in stages:
                wanted = max(1, int(kept[stages[layer]] * visual_tokens / PAPER_TOKENS + 1e-9))
                if wanted < current:
                    current = min(current, wanted + self._recycled(current - wanted))
            counts.append(current)
        return tuple(counts)

    def _recycled(self, dropped: int) -> int:
        """How many tokens come back of so many dropped ones."""
        return clusters_of(dropped) if self.recycle else 0

    def keep(self, view: View) -> Kept:
        """Keep what the raters look at, and recycle the better of the rest."""
        count = len(view.visual)
        raters = view.text_rows()[raters_of(*view.embedded)]
        scores = view.attention(raters).mean(dim=0)
        # `keep` includes the recycled tokens, whose number depends on how many are dropped.
        kept = view.keep
        if self.recycle:
            kept = max(k for k in range(view.keep) if k + self._recycled(count - k) <= view.keep)
        indices = highest(scores, kept)
        if not self.recycle:
            return Kept(indices, scores)
        left = torch.ones(count, dtype=torch.bool, device=scores.device)
        left[indices] = False
        dropped = torch.nonzero(left).flatten()
        better = dropped[highest(scores[dropped], recycled_of(len(dropped)))]
        centres, members = cluster(view.visual[better], clusters_of(len(dropped)))
        merge = scores.new_zeros(len(centres), count)
        merge[members, better] = 1.0
        return Kept(indices, scores, merge / merge.sum(dim=1, keepdim=True), better[centres])


def recycled_of(dropped: int) -> int:
    """How many of the dropped tokens are clustered."""
    return min(int(dropped * RECYCLED) + 1, dropped)


def clusters_of(dropped: int) -> int:
    """How many clusters they make."""
    return recycled_of(dropped) // PER_CLUSTER + 1 if dropped else 0


def raters_of(visual: Tensor, text: Tensor) -> Tensor:
    """The text tokens that belong to the image: int64 [r], ascending, at least one.

    Args:
        visual: [n, hidden].
        text: [t, hidden].
    """
    share = (visual.float() @ text.float().T).softmax(dim=1).mean(dim=0)  # [t]
    raters = torch.nonzero(share > share.mean()).flatten()
    return raters if len(raters) else torch.arange(len(text), device=text.device)


def cluster(tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cluster tokens [n, hidden] by density peaks; of equals the first wins.

    Returns:
        The centres, int64 [count] ascending, and for each token the place of its centre among them.
    """
    rows = tokens.float()
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart / math.sqrt(rows.shape[1])
    near = apart.topk(min(NEIGHBOURS, len(rows)), dim=1, largest=False).values
    density = -near.square().mean(dim=1)  # its logarithm: far from others it is 0 in float32
    order = torch.arange(len(rows), device=rows.device)
    denser = (density[None] > density[:, None]) | (
        (density[None] == density[:, None]) & (order[None] < order[:, None])
    )
    to_denser = torch.where(denser, apart, apart.max() + 1.0).min(dim=1).values
    peak = density + to_denser.clamp(max=float(apart.max())).log()
    centres = highest(peak, count)
    members = apart[:, centres].argmin(dim=1)
    members[centres] = torch.arange(len(centres), device=rows.device)
    return centres, members


def _table(nominal: float) -> tuple[float, ...]:
    """The table's row for a budget of 0 to 576, between its own rows."""
    rows = sorted(TABLE)
    if nominal <= rows[0]:
        return tuple(kept * nominal / rows[0] for kept in TABLE[rows[0]])
    upper = min(bisect_right(rows, nominal), len(rows) - 1)
    low, high = rows[upper - 1], rows[upper]
    share = math.log(nominal / low) / math.log(high / low)
    pairs = zip(TABLE[low], TABLE[high], strict=True)
    return tuple(a * (b / a) ** share for a, b in pairs)
