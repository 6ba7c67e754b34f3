# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a ROS domain of their own, few threads, no traces in the home folder.

ROS tests take `ros_domain` (or `ros_domain_of_module` for a node that serves a whole module) and
are skipped if rclpy is absent; a module that imports ROS at its top begins with
`pytest.importorskip("rclpy", reason="needs ROS 2")`.
"""

import contextlib
import importlib.util
import os
import signal
from collections.abc import Iterator

import pytest

from svd_vlm_ros.cli import domain

# Before anything imports torch: tiny models gain nothing from threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests talk to themselves only, also if somebody else's robot is on the network.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if os.environ.get("ROS_DISTRO") == "humble":  # knows only the older switch
    os.environ["ROS_LOCALHOST_ONLY"] = "1"
os.environ.pop("ROS_STATIC_PEERS", None)

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def reserved_domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other process of this machine uses meanwhile."""
    # Each process and test starts elsewhere: what the last one has sent is not heard by the next.
    start = os.getpid() + reserved_domain.calls
    reserved_domain.calls += 1
    with domain.reserved_domain(start) as number, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(number))
        yield number


reserved_domain.calls = 0


def _needs_ros() -> None:
    if importlib.util.find_spec("rclpy") is None:
        pytest.skip("needs ROS 2: rclpy is not installed")


@pytest.fixture
def ros_domain() -> Iterator[int]:
    """A ROS domain for this test alone, set in the environment; skips if there is no rclpy."""
    _needs_ros()
    with reserved_domain() as number:
        yield number


@pytest.fixture(scope="module")
def ros_domain_of_module() -> Iterator[int]:
    """As `ros_domain`, for all tests of a module that share a running node."""
    _needs_ros()
    with reserved_domain() as number:
        yield number


@pytest.fixture(scope="session", autouse=True)
def _speeds_of_layers_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `precision: auto` measures is kept for the session, commands and nodes included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _ros_logs_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros_log")))
        yield
