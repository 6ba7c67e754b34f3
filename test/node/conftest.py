# SPDX-License-Identifier: Apache-2.0
"""The robots that the tests of the node share; what a robot is, `robot.py` says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
sys.path.insert(0, str(Path(__file__).parent))  # for robot.py: no test folder is on the path

if TYPE_CHECKING:
    from robot import Robot


@pytest.fixture
def robot(ros_domain: int) -> Iterator[Robot]:
    """A robot for one test."""
    from robot import Robot

    made = Robot(ros_domain)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def robot_of_module(ros_domain_of_module: int) -> Iterator[Robot]:
    """A robot for all tests of a module."""
    from robot import Robot

    made = Robot(ros_domain_of_module)
    yield made
    made.stop()
