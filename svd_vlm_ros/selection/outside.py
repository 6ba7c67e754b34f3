# SPDX-License-Identifier: Apache-2.0
"""Selectors from outside this package: other packages' entry points, and `register_selector`.

A package that is installed beside this one brings a selector by its pyproject.toml:

    [project.entry-points."svd_vlm_ros.selectors"]
    middle = "own_selector:Middle"

Its class is a `FeatureSelector` that can be made without arguments. It is imported when it is
first made; only its name is looked up before.
"""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.kinds import FeatureSelector

GROUP = "svd_vlm_ros.selectors"

_registered: dict[str, type[Any]] = {}


def register_selector(made: type[Any]) -> None:
    """Make a selector known in this process, under its `name`; it goes before an entry point.

    Args:
        made: class of a `FeatureSelector` that can be made without arguments.
    """
    _registered[str(made.name)] = made


def outside_names() -> list[str]:
    """The names of these selectors, in order."""
    return sorted({*_registered, *_entry_points()})


def outside_class(name: str) -> type[Any]:
    """The class of one of `outside_names()`. `UserError`: it can't be used."""
    if name in _registered:
        return _registered[name]
    point = _entry_points()[name]
    whose = f"The selector '{name}' of the package {point.dist.name if point.dist else point.value}"
    try:
        made: Any = point.load()
        known = isinstance(made(), FeatureSelector)
    except Exception as error:  # of somebody else's code: it may raise anything
        raise UserError(
            f"{whose} can't be loaded ({type(error).__name__}: {error}): mend the package, or "
            "remove it."
        ) from error
    if not known or made.name != name:
        raise UserError(
            f"{whose} is no selector of that name: its class needs 'name', 'needs' and __call__ "
            "(docs/selectors.md)."
        )
    found: type[Any] = made
    return found


@functools.cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
