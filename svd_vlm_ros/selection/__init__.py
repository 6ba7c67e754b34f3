# SPDX-License-Identifier: Apache-2.0
"""Which of an image's patches the language model gets to see.

    select = make_selector("svd-cover")
    selection = select(VisualFeatures(patches, grid=(6, 8)), Budget(tokens=16))

One file a method, all pure functions on tensors; `docs/selectors.md` shows how to add one. What
acts before the language model is here, what acts between its layers in `selection/inside/`.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Literal

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.baselines import KeepAll, RandomChoice, RowNorm, UniformGrid
from svd_vlm_ros.selection.cdpruner import CdPruner
from svd_vlm_ros.selection.divprune import DivPrune
from svd_vlm_ros.selection.hired import Hired
from svd_vlm_ros.selection.inside import SELECTORS as _INSIDE
from svd_vlm_ros.selection.inside import LayerSelector
from svd_vlm_ros.selection.interface import (
    NEEDS,
    Budget,
    Encoder,
    EncoderSelector,
    FeatureSelector,
    ImageText,
    Need,
    Selection,
    VisualFeatures,
    looks_at_question,
    make_budget,
)
from svd_vlm_ros.selection.mmtok import MmTok
from svd_vlm_ros.selection.scope import Scope
from svd_vlm_ros.selection.svd import SvdPrune
from svd_vlm_ros.selection.svd_cover import SvdCover
from svd_vlm_ros.selection.svd_pivoted import SvdPivoted
from svd_vlm_ros.selection.tome import ToMe
from svd_vlm_ros.selection.trim import Trim
from svd_vlm_ros.selection.visionzip import VisionZip
from svd_vlm_ros.selection.vispruner import VisPruner

__all__ = [
    "NEEDS",
    "Budget",
    "Encoder",
    "EncoderSelector",
    "FeatureSelector",
    "ImageText",
    "LayerSelector",
    "Need",
    "Selection",
    "Selector",
    "VisualFeatures",
    "looks_at_question",
    "make_budget",
    "make_selector",
    "selector_kind",
    "selector_names",
]

Selector = FeatureSelector | LayerSelector
"""Any of the three kinds; `isinstance` with the protocol of a kind tells them apart."""

Kind = Literal["before", "inside"]

# A new selector is one line here.
_BEFORE: tuple[type[FeatureSelector], ...] = (
    SvdCover,
    SvdPrune,
    SvdPivoted,
    VisionZip,
    Hired,
    Trim,
    ToMe,
    DivPrune,
    Scope,
    MmTok,
    CdPruner,
    VisPruner,
    KeepAll,
    RandomChoice,
    UniformGrid,
    RowNorm,
)


def _registry(kind: Kind) -> dict[str, type[Selector]]:
    classes: tuple[type[Selector], ...] = _BEFORE if kind == "before" else _INSIDE
    return {str(cls.name): cls for cls in classes}


def selector_names(kind: Literal["all"] | Kind = "all") -> list[str]:
    """The names that `make_selector` knows, the default first.

    Args:
        kind: "before" the language model, "inside" it, or "all".
    """
    kinds: tuple[Kind, ...] = ("before", "inside") if kind == "all" else (kind,)
    return [name for each in kinds for name in _registry(each)]


def selector_kind(name: str) -> Kind:
    """Whether a selector acts before or inside the language model. `UserError`: there is none."""
    if name in _registry("before"):
        return "before"
    if name in _registry("inside"):
        return "inside"
    raise UserError(f"There is no selector '{name}': take one of {', '.join(selector_names())}.")


def make_selector(name: str, **options: Any) -> Selector:
    """Make a selector by its name.

    Args:
        name: one of `selector_names()`.
        options: what the selector's class takes, e.g. `rank="budget"` for `svd`.

    Returns:
        A `LayerSelector` for names of the kind "inside", else a `FeatureSelector`; it is an
        `EncoderSelector` if it needs "encoder".

    Raises:
        UserError: the name or an option is not known, or an option's value is out of range.
    """
    made = _registry(selector_kind(name))[name]
    known: list[str] = [field.name for field in fields(made)] if is_dataclass(made) else []
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"its options are {', '.join(known)}" if known else "it has none"
        raise UserError(f"The selector '{name}' has no option '{unknown[0]}': {has}.")
    return made(**options)
