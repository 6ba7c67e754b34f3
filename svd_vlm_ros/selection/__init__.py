# SPDX-License-Identifier: Apache-2.0
"""Which of an image's patches the language model gets to see.

    select = make_selector("svd-cover")
    selection = select(VisualFeatures(patches, grid=(6, 8)), Budget(tokens=16))

One file a method, all pure functions on tensors; `docs/selectors.md` shows how to add one. What
acts before the language model is here, what acts between its layers in `selection/inside/`, what
other packages bring in `outside`.

Importing this package imports no torch, so that names and values are known where there is none;
`make_selector` and `VisualFeatures` do.
"""

from __future__ import annotations

import importlib
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.inside.interface import LayerSelector
from svd_vlm_ros.selection.kinds import EncoderSelector, FeatureSelector, looks_at_question
from svd_vlm_ros.selection.outside import outside_class, outside_names, register_selector
from svd_vlm_ros.selection.values import NEEDS, Budget, Need, Selection, make_budget

if TYPE_CHECKING:
    from svd_vlm_ros.selection.features import Encoder, ImageText, VisualFeatures

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
    "register_selector",
    "selector_kind",
    "selector_names",
]

Selector = FeatureSelector | LayerSelector
"""Any of the three kinds; `isinstance` with the protocol of a kind tells them apart."""

Kind = Literal["before", "inside"]

# A new selector is one line here: its name, and its module and class. The default comes first.
_BEFORE = {
    "svd-cover": "svd_cover.SvdCover",
    "svd": "svd.SvdPrune",
    "svd-pivoted": "svd_pivoted.SvdPivoted",
    "visionzip": "visionzip.VisionZip",
    "hired": "hired.Hired",
    "trim": "trim.Trim",
    "tome": "tome.ToMe",
    "divprune": "divprune.DivPrune",
    "scope": "scope.Scope",
    "mmtok": "mmtok.MmTok",
    "cdpruner": "cdpruner.CdPruner",
    "vispruner": "vispruner.VisPruner",
    "none": "baselines.KeepAll",
    "random": "baselines.RandomChoice",
    "grid": "baselines.UniformGrid",
    "norm": "baselines.RowNorm",
}
_INSIDE = {
    "fastv": "inside.fastv.FastV",
    "pyramiddrop": "inside.pyramiddrop.PyramidDrop",
    "sparsevlm": "inside.sparsevlm.SparseVLM",
    "atp": "inside.atp.AdaptiveTokenPruning",
}


def __getattr__(name: str) -> Any:
    """What imports torch is imported when it is asked for (PEP 562)."""
    if name in ("Encoder", "ImageText", "VisualFeatures"):
        return getattr(importlib.import_module("svd_vlm_ros.selection.features"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def selector_names(kind: Literal["all"] | Kind = "all") -> list[str]:
    """The names that `make_selector` knows, the default first, those of other packages last.

    Args:
        kind: "before" the language model, "inside" it, or "all".
    """
    before = [] if kind == "inside" else list(_BEFORE)
    inside = [] if kind == "before" else list(_INSIDE)
    others = [name for name in outside_names() if name not in (*_BEFORE, *_INSIDE)]
    return [*before, *inside, *([] if kind == "inside" else others)]


def selector_kind(name: str) -> Kind:
    """Whether a selector acts before or inside the language model. `UserError`: there is none."""
    for kind in get_args(Kind):
        if name in selector_names(kind):
            return cast(Kind, kind)
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
        UserError: the name or an option is not known, an option's value is out of range, or
            another package's selector can't be loaded.
    """
    selector_kind(name)
    if name not in _BEFORE and name not in _INSIDE:
        return make_with(outside_class(name), name, options)
    module, _, made = {**_BEFORE, **_INSIDE}[name].rpartition(".")
    found: type[Selector] = getattr(importlib.import_module(f"{__name__}.{module}"), made)
    return make_with(found, name, options)


def make_with(made: type[Selector], name: str, options: dict[str, Any]) -> Selector:
    """A selector of a class. `UserError`: it has no such option, or its value is out of range."""
    known: list[str] = [field.name for field in fields(made)] if is_dataclass(made) else []
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"its options are {', '.join(known)}" if known else "it has none"
        raise UserError(f"The selector '{name}' has no option '{unknown[0]}': {has}.")
    return made(**options)
