# SPDX-License-Identifier: Apache-2.0
"""The selectors that run without torch: those before the language model that look at the image.

`make_selector` is that of `svd_vlm_ros.selection`, with these methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.onnx_runtime.selectors.features import Selection, VisualFeatures
from svd_vlm_ros.onnx_runtime.selectors.methods import (
    DivPrune,
    Hired,
    KeepAll,
    RandomChoice,
    RowNorm,
    Scope,
    UniformGrid,
)
from svd_vlm_ros.onnx_runtime.selectors.svd import SvdCover, SvdPrune
from svd_vlm_ros.selection import make_with, selector_kind

if TYPE_CHECKING:
    from svd_vlm_ros.selection import Selector

__all__ = ["SELECTORS", "Selection", "VisualFeatures", "make_selector"]

# A new selector is one line here. The default comes first.
_CLASSES: tuple[type[Any], ...] = (
    SvdCover,
    SvdPrune,
    Hired,
    DivPrune,
    Scope,
    KeepAll,
    RandomChoice,
    UniformGrid,
    RowNorm,
)
SELECTORS: tuple[str, ...] = tuple(str(cls.name) for cls in _CLASSES)
"""The names that `make_selector` knows here."""


def make_selector(name: str, **options: Any) -> Selector:
    """Make a selector by its name; see `svd_vlm_ros.selection.make_selector`.

    Raises:
        UserError: the name or an option is not known, or only in the runtime torch; or an option's
            value is out of range.
    """
    found = dict(zip(SELECTORS, _CLASSES, strict=True)).get(name)
    if found is None:
        selector_kind(name)  # says so if there is none at all
        raise UserError(
            f"The selector '{name}' does not run in the runtime onnx: take one of "
            f"{', '.join(SELECTORS)}."
        )
    return make_with(cast("type[Selector]", found), name, options)
