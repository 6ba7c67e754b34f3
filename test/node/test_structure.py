# SPDX-License-Identifier: Apache-2.0
"""How the node is put together: it composes, its parts do not know it, and they form no circle."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
from rclpy.lifecycle import LifecycleNode

from svd_vlm_ros.node.session import Session

PACKAGE = Path(__file__).resolve().parents[2] / "svd_vlm_ros"
COMPOSES = {"svd_vlm_ros.node.perception", "svd_vlm_ros.node.perception_node"}
MOST_LINES = 320


def module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


TREES = {
    module(path): ast.parse(path.read_text())
    for room in ("node", "ros")
    for path in sorted((PACKAGE / room).rglob("*.py"))
}


def imported(tree: ast.AST) -> set[str]:
    """The modules of ours that a module imports, for types only as well."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in TREES}


@pytest.mark.parametrize("name", sorted(set(TREES) - COMPOSES))
def test_no_part_knows_the_node(name: str) -> None:
    """Neither by an import nor by name; of rclpy's node it uses what every node has."""
    tree = TREES[name]
    assert "svd_vlm_ros.node.perception_node" not in imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            assert getattr(node, "id", getattr(node, "attr", "")) != "PerceptionNode"
        if not name.startswith("svd_vlm_ros.node.") or not isinstance(node, ast.Attribute):
            continue
        if ast.unparse(node.value) in ("node", "self._node"):
            ours = {"add_parameter_hooks"}  # of ros.distributions.HookedNode
            assert hasattr(LifecycleNode, node.attr) or node.attr in ours, node.attr


def test_there_is_no_circle() -> None:
    uses = {name: imported(tree) for name, tree in TREES.items()}
    while free := [name for name, used in uses.items() if not used & uses.keys()]:
        for name in free:
            del uses[name]
    assert not uses


def test_the_rooms_stand_in_this_order() -> None:
    """A room imports those above its own line alone."""
    order = ["ros", "parameters", "cameras", "inference", "session", "effects health interfaces"]
    rank = {room: number for number, line in enumerate(order) for room in line.split()}

    def room(name: str) -> str:
        parts = name.split(".")[1:]
        return parts[0] if parts[0] == "ros" or len(parts) == 1 else parts[1]

    for name, tree in TREES.items():
        if name in COMPOSES or room(name) == "node":
            continue
        for other in imported(tree):
            if room(other) not in (room(name), "node"):
                assert rank[room(other)] < rank[room(name)], f"{name} imports {other}"


def test_scout_does_not_import_the_node() -> None:
    for path in (PACKAGE / "scout").rglob("*.py"):
        assert "svd_vlm_ros.node" not in path.read_text(), path


def test_a_session_is_frozen() -> None:
    assert Session.__dataclass_params__.frozen
    assert dataclasses.fields(Session)


def test_modules_are_short() -> None:
    for path in (PACKAGE / "node").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= MOST_LINES, path
