# SPDX-License-Identifier: Apache-2.0
"""A cell of the table: one way to answer a task's questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CLEAN = "clean"
REPHRASED = "rephrased"
KEEP_ALL = "none"


@dataclass(frozen=True)
class Cell:
    """One way to answer.

    Attributes:
        precision: fp32, bf16, fp16, int8 or int4.
        selector: how visual tokens are chosen.
        tokens: how many are kept.
        condition: "clean"; "fog 3": that corruption at that severity; "rephrased".
    """

    precision: str
    selector: str
    tokens: int
    condition: str = CLEAN

    @property
    def key(self) -> str:
        """The cell in one word, as it stands in the files of answers."""
        return f"{self.precision}/{self.selector}/{self.tokens}/{self.condition}"

    @classmethod
    def from_key(cls, key: str) -> Cell:
        """The cell of a `key`. Raises `ValueError` if it is none."""
        precision, selector, tokens, condition = key.split("/")
        return cls(precision, selector, int(tokens), condition)


def plan_cells(
    precision: str,
    selectors: Sequence[str],
    budgets: Sequence[int],
    conditions: Sequence[str],
    patches: int,
) -> list[Cell]:
    """The cells of one precision, each once.

    A budget of all patches leaves nothing to choose: whatever the selector, that is the cell
    `none`, which is filled once. The selector `none` keeps everything whatever the budget.

    Args:
        precision, selectors, budgets, conditions: what to combine.
        patches: of the model's images.
    """
    chosen = [
        (KEEP_ALL, patches) if selector == KEEP_ALL or budget >= patches else (selector, budget)
        for budget in budgets
        for selector in selectors
    ]
    return [
        Cell(precision, selector, tokens, condition)
        for condition in conditions
        for selector, tokens in dict.fromkeys(chosen)
    ]


def condition_of(corruption: str, severity: int) -> str:
    """The name of a condition: "fog 3"."""
    return f"{corruption} {severity}"


def corruption_of(condition: str) -> tuple[str, int] | None:
    """A condition's corruption and severity; None if the image is as it was."""
    if condition in (CLEAN, REPHRASED):
        return None
    name, severity = condition.rsplit(" ", 1)
    return name, int(severity)
