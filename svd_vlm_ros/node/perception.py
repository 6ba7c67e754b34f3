# SPDX-License-Identifier: Apache-2.0
"""The executable `perception_node`; the node itself is `perception_node.PerceptionNode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from svd_vlm_ros.ros import process

if TYPE_CHECKING:
    from svd_vlm_ros.node.perception_node import PerceptionNode


def main() -> NoReturn:
    """Run the node as a process; see `process.run` for the exit status."""
    process.run(_make_node)


def _make_node() -> PerceptionNode:
    from svd_vlm_ros.node.perception_node import PerceptionNode

    return PerceptionNode()


if __name__ == "__main__":
    main()
