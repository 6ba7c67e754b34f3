# SPDX-License-Identifier: Apache-2.0
"""ATP: prune at each layer, by how much text and image look at each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

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
    highest,
    scaled_stages,
    spread,
)
from svd_vlm_ros.selection.interface import Budget


@dataclass(frozen=True)
class AdaptiveTokenPruning:
    """Adaptive token pruning, ATP (arXiv 2512.12701), as its abstract says: progressive, from
    inter- and intra-modal attention at each layer, with a budget that adapts to the input.

    There is no code and no schedule of it, and its formula, a * norm(similarity of patch and text)
    + (1 - a) * norm(attention of the class token), is given for the encoder. What the abstract
    leaves open, and
    what was chosen here:

    * **Inter-modal** attention of a visual token: what the text's tokens pay to it, the mean over
      them and over heads, in the layer that just ran.
    * **Intra-modal** attention: what visual tokens pay to it, the mean over those that can see it.
      The language model is causal: a token is seen by those behind it and by itself. A mean over
      all tokens would rank the top of the image highest.
    * **Score** = a * norm(inter) + (1 - a) * norm(intra), with norm to the range 0 to 1, a = .5.
    * **Progressive:** in front of every layer from the third of 32 on, each with a cap. The caps
      fall geometrically, by the rate at which their average over all layers is the budget M.
    * **Adaptive:** of what the cap allows only the fewest tokens stay whose scores sum to `mass` of
      all. An image in which little matters to the question falls faster than the caps do; so M is
      the most that the **average over the layers** can be, and `Answer.layer_tokens` says what it
      was. A budget given as an energy is the mass, with the cap as M.
    * **Positions** stay what they were, so that words and patches keep their distances.
    * A budget of all tokens drops nothing.

    Attributes:
        balance: a, from 0 (intra-modal alone) to 1 (inter-modal alone).
        mass: share of the scores that stays at a layer if the budget is a number.
        layer: how many layers of 32 read all tokens.
        counts: "average", or "kept": at most M tokens are left in the last layer.
    """

    name: ClassVar[str] = "atp"
    balance: float = 0.5
    mass: float = 0.99
    layer: int = 2
    counts: Counts = "average"

    def __post_init__(self) -> None:
        check_counts(self.name, self.counts)
        if not 0.0 <= self.balance <= 1.0:
            raise UserError(f"The atp selector's balance is 0 to 1, not {self.balance}.")
        if not 0.0 < self.mass <= 1.0:
            raise UserError(f"The atp selector's mass is above 0 and at most 1, not {self.mass}.")
        if not 1 <= self.layer < PAPER_LAYERS:
            raise UserError(f"The atp selector's layer is 1 to 31, not {self.layer}.")

    def plan(self, layers: int, visual_tokens: int, budget: Budget) -> LayerPlan:
        """Caps that fall geometrically."""
        if budget.tokens >= visual_tokens and budget.energy is None:
            return LayerPlan(all_layers(layers, visual_tokens), renumber=False)
        start = min(scaled_stages((self.layer,), layers), default=layers)
        tokens = min(budget.tokens, visual_tokens)

        def schedule(share: float) -> tuple[int, ...]:
            caps = {
                layer: max(1, int(visual_tokens * share ** (layer - start + 1)))
                for layer in range(start, layers)
            }
            return spread(layers, visual_tokens, caps)

        counts = fit(self.name, tokens, self.counts, schedule)
        return LayerPlan(counts, renumber=False, energy=budget.energy)

    def keep(self, view: View) -> Kept:
        """Keep the fewest tokens with the mass of the scores, within the cap."""
        scores = self.scores(view)
        total = float(scores.sum())
        if not total > 0.0:
            return Kept(highest(scores, view.keep), scores)
        mass = self.mass if view.energy is None else view.energy
        falling = scores.double().sort(descending=True).values.cumsum(0)
        enough = int((falling < mass * total).sum()) + 1
        return Kept(highest(scores, min(view.keep, enough)), scores)

    def scores(self, view: View) -> Tensor:
        """float32 [n]: what text and image pay to each visual token."""
        count = len(view.visual)
        rows = torch.arange(count, device=view.visual.device)
        inter = view.attention(view.text_rows()).mean(dim=0)
        seen_by = count - rows  # the visual tokens behind it, and itself
        intra = view.attention(rows).sum(dim=0) / seen_by
        return self.balance * _norm(inter) + (1.0 - self.balance) * _norm(intra)


def _norm(values: Tensor) -> Tensor:
    """Values [n] in the range 0 to 1; all 0 if they are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)
