# SPDX-License-Identifier: Apache-2.0
"""What a selector that works inside the language model is given and what it returns.

Such a selector looks at the question: what it keeps serves that question alone. It is a rule on
tensors that knows no model. The engine's layer loop calls it in front of the layers that its plan
names, with the tokens that are there and a way to look at attention weights, of which only those
that the rule asks for are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.values import Budget

if TYPE_CHECKING:
    from torch import Tensor

PAPER_LAYERS = 32  # of Vicuna-7B, in which the papers count their layers

Counts = Literal["average", "kept"]
"""What a budget of M tokens means: an average over the layers, or what is left in the last one."""


@dataclass(frozen=True)
class LayerPlan:
    """How many visual tokens each layer reads.

    Attributes:
        counts: one a layer, never rising; the first is that of all tokens. A rule that adapts to
            its input may keep fewer.
        attention: whose weights the rule looks at in front of a layer: those of the "previous"
            layer, as it used them, or those that the "next" one would use.
        renumber: the positions of the tokens that stay close ranks; else they stay as they were.
        energy: that of an adaptive budget, for the rule.
    """

    counts: tuple[int, ...]
    attention: Literal["previous", "next"] = "previous"
    renumber: bool = True
    energy: float | None = None

    def __post_init__(self) -> None:
        falls = all(a >= b >= 1 for a, b in zip(self.counts, self.counts[1:], strict=False))
        if not self.counts or not falls:
            raise ValueError(f"counts must not rise and not end below 1: {self.counts}")

    @property
    def average(self) -> float:
        """Visual tokens of a layer, averaged over all."""
        return sum(self.counts) / len(self.counts)


@dataclass(frozen=True, eq=False)
class View:
    """The conversation in front of a layer: n visual tokens, then t of text.

    Attributes:
        keep: visual tokens that may stay.
        energy: of an adaptive budget; None: the budget is a number.
        visual: float [n, hidden], what the layer would read.
        embedded: the tokens in front of the first layer: visual [N, hidden] and text [t, hidden].
        attention: called with int64 [r], rows among the n + t tokens, it computes how much they
            look at each visual token: float32 [r, n], softmax weights (over all that a token sees,
            not only visual ones), the mean over heads.
    """

    keep: int
    energy: float | None
    visual: Tensor
    embedded: tuple[Tensor, Tensor]
    attention: Callable[[Tensor], Tensor]

    def text_rows(self) -> Tensor:
        """The rows of the text's tokens: int64 [t]."""
        import torch  # only here: the protocol is known where there is none

        start = len(self.visual)
        return torch.arange(start, start + len(self.embedded[1]), device=self.visual.device)


@dataclass(frozen=True, eq=False)
class Kept:
    """Which of n visual tokens stay.

    Attributes:
        indices: int64 [k], ascending.
        scores: float32 [n], none negative, for display.
        merge: float32 [m, n]: m further tokens that are made of those that were dropped, row by row
            a weighted mean; they stand behind the others. None: there are none.
        centres: int64 [m], the token that stands for each of them.
    """

    indices: Tensor
    scores: Tensor
    merge: Tensor | None = None
    centres: Tensor | None = None


@runtime_checkable
class LayerSelector(Protocol):
    """A rule that drops visual tokens between the layers of the language model."""

    @property
    def name(self) -> str:
        """The name that users write."""
        ...

    def plan(self, layers: int, visual_tokens: int, budget: Budget) -> LayerPlan:
        """Say what each layer reads.

        Args:
            layers: of the language model.
            visual_tokens: of the image.
            budget: what is asked for. As many as there are, or more: nothing is dropped.

        Raises:
            UserError: the budget can't be reached, and why.
        """
        ...

    def keep(self, view: View) -> Kept:
        """Choose the visual tokens that stay, `view.keep` or fewer, in front of a layer whose count
        in the plan is lower than that of the layer before.
        """
        ...


def all_layers(layers: int, visual_tokens: int) -> tuple[int, ...]:
    """The counts of a plan that drops nothing."""
    return (visual_tokens,) * layers


def fixed_tokens(name: str, budget: Budget) -> int:
    """The number of tokens of a fixed budget. Raises `UserError` if it is an energy."""
    if budget.energy is not None:
        raise UserError(f"The selector '{name}' takes a number of visual tokens, not an energy.")
    return budget.tokens


def scaled_stages(stages: Sequence[int], layers: int) -> dict[int, int]:
    """Where a paper's stages lie in a model of another depth.

    Args:
        stages: ascending; each counts the layers, of 32, that come before it.
        layers: of this model.

    Returns:
        {the layer that comes next: the number of the stage, from 0}. With 32 layers these are the
        paper's. In a shallow model several stages can fall together: the last of them remains.
        Empty if there is only one layer.
    """
    if layers < 2:
        return {}
    places = [min(max(round(stage * layers / PAPER_LAYERS), 1), layers - 1) for stage in stages]
    return {place: number for number, place in enumerate(places)}


def spread(layers: int, visual_tokens: int, stages: dict[int, int]) -> tuple[int, ...]:
    """The counts of each layer: all tokens, from a stage's layer on what {layer: count} says."""
    counts, current = [], visual_tokens
    for layer in range(layers):
        current = min(current, stages.get(layer, current))
        counts.append(current)
    return tuple(counts)


def fit(
    name: str,
    budget: int,
    counts: Counts,
    schedule: Callable[[float], tuple[int, ...]],
) -> tuple[int, ...]:
    """The largest of a family of schedules within a budget.

    Args:
        name: of the selector, for the message.
        budget: tokens.
        counts: what they count.
        schedule: for a share from 0 to 1 the counts of each layer; larger shares give no fewer.

    Raises:
        UserError: even the share 0 is above the budget.
    """

    def tokens(share: float) -> float:
        found = schedule(share)
        return found[-1] if counts == "kept" else sum(found) / len(found)

    if tokens(0.0) > budget:
        least = schedule(0.0)
        full = sum(count == least[0] for count in least)
        raise UserError(
            f"The selector '{name}' can't keep to {budget} visual tokens on average: the first "
            f"{full} of {len(least)} layers read all {least[0]}, so that the average of all layers "
            f"is {tokens(0.0):.1f} or more. Ask for more, let the budget be what is left in the "
            "last layer (its option counts='kept'), or take a selector that acts before the "
            "language model."
        )
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens(middle) <= budget else (low, middle)
    return schedule(low)


def highest(scores: Tensor, keep: int) -> Tensor:
    """The places of the `keep` highest of scores [n], ascending; of equal ones the lower place."""
    return scores.sort(descending=True, stable=True).indices[:keep].sort().values


def check_counts(name: str, counts: str) -> None:
    """Raise `UserError` if what a budget counts is not known."""
    if counts not in ("average", "kept"):
        raise UserError(f"The {name} selector counts 'average' or 'kept', not '{counts}'.")
