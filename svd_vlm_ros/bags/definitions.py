# SPDX-License-Identifier: Apache-2.0
"""Messages from definitions: those of ROS 2 Jazzy, and this package's own .msg files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

import svd_vlm_ros
from svd_vlm_ros.errors import UserError

PACKAGE = "svd_vlm_ros"
DESCRIPTION = f"{PACKAGE}/msg/SceneDescription"


def definitions_folder() -> Path:
    """The folder of the .msg files: <prefix>/share/svd_vlm_ros/msg, or the checkout's msg/."""
    package = Path(svd_vlm_ros.__file__).parent
    for parent in (*package.parents, Path(sys.prefix)):
        for folder in (parent / "share" / PACKAGE / "msg", parent / "msg"):
            if (folder / "SceneDescription.msg").is_file():
                return folder
    raise UserError(
        f"The message definitions of {PACKAGE} are not installed beside {package}: install the "
        "package again."
    )


def typestore() -> Typestore:
    """All message types that a description is made of, and those of images."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(definitions_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store


def build(store: Typestore, name: str, values: dict[str, Any]) -> Any:
    """A message of the type, its fields from `values`; what is not in there is zero or empty.

    Messages within it are given as dictionaries, sequences of them as lists.
    """
    _, fields = store.fielddefs[name]
    unknown = set(values) - {field for field, _ in fields}
    if unknown:
        raise ValueError(f"{name} has no {', '.join(sorted(unknown))}")
    made = {field: _value(store, kind, values.get(field)) for field, kind in fields}
    return store.types[name](**made)


def _value(store: Typestore, kind: Any, value: Any) -> Any:
    node, detail = kind
    if node == Nodetype.NAME:
        return (
            value if isinstance(value, store.types[detail]) else build(store, detail, value or {})
        )
    if node == Nodetype.BASE:
        name = detail[0]
        zero: Any = "" if name == "string" else False if name == "bool" else 0
        return zero if value is None else value
    inner, _ = detail
    items = [_value(store, inner, item) for item in value or []]
    number = inner[0] == Nodetype.BASE and inner[1][0] != "string"
    return np.array(items, inner[1][0]) if number else items
