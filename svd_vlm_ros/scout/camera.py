# SPDX-License-Identifier: Apache-2.0
"""The executable `scout_camera`; the node itself is `camera_node.ScoutCamera`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from svd_vlm_ros.ros import process

if TYPE_CHECKING:
    from svd_vlm_ros.scout.camera_node import ScoutCamera


def main() -> NoReturn:
    """Run the camera as a process; see `process.run` for the exit status."""
    process.run(_make_node)


def _make_node() -> ScoutCamera:
    from svd_vlm_ros.scout.camera_node import ScoutCamera

    return ScoutCamera()


if __name__ == "__main__":
    main()
