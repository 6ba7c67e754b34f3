# SPDX-License-Identifier: Apache-2.0
"""What the tests of the examples share: the node's robot with scout, and examples as processes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
TESTS = Path(__file__).resolve().parents[1]
EXAMPLES = TESTS.parent / "examples"
sys.path.insert(0, str(TESTS / "node"))  # for robot.py: no test folder is on the path

if TYPE_CHECKING:
    from robot import Robot

SCOUT = {"model": "scout", "precision": "fp32", "allow_random_model": False}


@pytest.fixture
def robot(ros_domain: int) -> Iterator[Robot]:
    """A robot for one test."""
    from robot import Robot

    made = Robot(ros_domain)
    yield made
    made.stop()


@pytest.fixture
def scout(robot: Robot) -> Callable[..., Robot]:
    """Starts the robot's node with the embedded model, and returns the robot."""

    def start(**parameters: Any) -> Robot:
        robot.start(**{**SCOUT, **parameters})
        return robot

    return start


@pytest.fixture
def start(ros_domain: int, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts an example as a process with its arguments, in the test's ROS domain."""
    started: list[subprocess.Popen[str]] = []

    def run(name: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-u", str(EXAMPLES / name), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,  # not the checkout, whose package has no compiled interfaces
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def example() -> Callable[[str], ModuleType]:
    """Imports an example by the name of its file."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
