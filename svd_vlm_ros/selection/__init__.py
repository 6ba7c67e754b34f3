# SPDX-License-Identifier: Apache-2.0
"""Which of a picture's patches the language model gets to see.

    select = make_selector("svd")
    selection = select(VisualFeatures(patches, grid=(24, 24)), Budget(tokens=64))

One file a method, all pure functions on tensors; `docs/selectors.md` shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.baselines import KeepAll, RandomChoice, RowNorm, UniformGrid
from svd_vlm_ros.selection.interface import (
    Budget,
    Selection,
    Selector,
    VisualFeatures,
    make_budget,
)
from svd_vlm_ros.selection.svd import SvdPrune

__all__ = [
    "Budget",
    "Selection",
    "Selector",
    "VisualFeatures",
    "make_budget",
    "make_selector",
    "selector_names",
]

_REGISTRY: dict[str, Callable[..., Selector]] = {
    cls.name: cls for cls in (SvdPrune, KeepAll, RandomChoice, UniformGrid, RowNorm)
}


def selector_names() -> list[str]:
    """The names that `make_selector` knows, the default first."""
    return list(_REGISTRY)


def make_selector(name: str, **options: Any) -> Selector:
    """Make a selector by its name.

    Args:
        name: one of `selector_names()`.
        options: what the selector's class takes, e.g. `rank="budget"` for `svd`.

    Raises:
        UserError: the name or an option is not known, or an option's value is out of range.
    """
    if name not in _REGISTRY:
        raise UserError(f"There is no selector '{name}': take one of {', '.join(_REGISTRY)}.")
    made = _REGISTRY[name]
    known: list[str] = [field.name for field in fields(made)] if is_dataclass(made) else []
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"its options are {', '.join(known)}" if known else "it has none"
        raise UserError(f"The selector '{name}' has no option '{unknown[0]}': {has}.")
    return made(**options)
