# SPDX-License-Identifier: Apache-2.0
"""The executables as processes of their own: how they start, how they end, what they print."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from svd_vlm_ros.action import StreamAnswer
from svd_vlm_ros.ros.process import END_WITHIN

PATIENCE = 90.0  # s; a bound against hanging
NODE, CAMERA = "svd_vlm_ros.node.perception", "svd_vlm_ros.scout.camera"
TINY = ["-p", "model:=random:tiny", "-p", "precision:=fp32", "-p", "device:=cpu"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(ros_domain: int, tmp_path: Path) -> Iterator[Start]:
    """Starts a module as a process with ROS arguments."""
    started: list[subprocess.Popen[str]] = []

    def run(module: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, "--ros-args", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read the process's output up to a line with these words."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if words in line:
            return read
    raise AssertionError(f"no '{words}' in:\n{read}")


def ending(process: subprocess.Popen[str], *numbers: signal.Signals) -> str:
    """What the process still prints after these signals; it ends in time and with status 0."""
    for number in numbers:
        process.send_signal(number)
    # It ends by its own watch after END_WITHIN at the latest; the rest is a busy machine's.
    output, _ = process.communicate(timeout=END_WITHIN + 20)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]],
    ids=["SIGINT", "twice", "SIGTERM"],
)
def test_ends_while_it_loads(start: Start, numbers: list[signal.Signals]) -> None:
    node = start(NODE, *TINY)
    wait_for(node, "Loading random:tiny")
    ending(node, *numbers)


def test_ends_while_it_is_active(start: Start) -> None:
    node = start(NODE, *TINY)
    wait_for(node, "Active: ask on /ask_scene.")
    ending(node, signal.SIGINT)


class Remote:
    """Talks to the node in the other process."""

    def __init__(self, domain: int) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node("remote", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def spin_until(self, done: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end
            self._executor.spin_once(timeout_sec=0.05)

    def change(self, *transitions: int) -> None:
        """Take the node through its states.

        Between processes a request is lost while only one side has found the other, and so is a
        reply ("client will not receive response"). So a transition that there is not is asked for
        until a reply comes.
        """
        client = self.node.create_client(ChangeState, "perception/change_state")
        self.spin_until(client.service_is_ready)
        replies: list[Any] = []
        asked = -math.inf

        def connected() -> list[Any]:
            nonlocal asked
            if time.monotonic() - asked > 1.0:
                asked = time.monotonic()
                request = ChangeState.Request(transition=Transition(label="none"))
                client.call_async(request).add_done_callback(replies.append)
            return replies

        self.spin_until(connected)
        for transition in transitions:
            request = ChangeState.Request(transition=Transition(id=transition))
            future = client.call_async(request)
            self.spin_until(future.done)
            assert future.result().success

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def remote(ros_domain: int) -> Iterator[Remote]:
    made = Remote(ros_domain)
    yield made
    made.close()


CONFIGURE, SHUTDOWN = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("transitions", [[CONFIGURE], [SHUTDOWN]], ids=["inactive", "finalized"])
def test_ends_in_other_states(
    start: Start, remote: Remote, transitions: list[int], number: signal.Signals
) -> None:
    node = start(NODE, *TINY, "-p", "autostart:=false")
    remote.change(*transitions)
    ending(node, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_while_it_answers(start: Start, remote: Remote, number: signal.Signals) -> None:
    """With a thousand tokens to go; whoever asked still gets a reply, or none at all."""
    answering = ["-p", "allow_random_model:=true", "-p", "description_period:=0.0"]
    node = start(NODE, *TINY, *answering)
    publisher = remote.node.create_publisher(Image, "image", 1)
    image = Image(height=4, width=4, step=12, encoding="rgb8", data=bytes(48))
    heard: list[Any] = []
    client = ActionClient(remote.node, StreamAnswer, "stream_answer")
    wait_for(node, "Active: ask on /ask_scene.")
    remote.spin_until(client.server_is_ready)

    def hears() -> list[Any]:
        publisher.publish(image)
        if not heard:
            goal = StreamAnswer.Goal(question="what is there?", max_new_tokens=1024)
            client.send_goal_async(goal, feedback_callback=heard.append)
        return heard

    remote.spin_until(hears)
    ending(node, number)
    client.destroy()


def test_ends_unconfigured(start: Start) -> None:
    node = start(NODE, *TINY, "-p", "autostart:=false", "--log-level", "debug")
    wait_for(node, "perception")
    ending(node, signal.SIGINT)


def test_missing_weights_end_it_with_one_message(start: Start) -> None:
    """And within seconds, because torch is not imported before."""
    node = start(NODE, "-p", "model:=nobody/nothing")
    output, _ = node.communicate(timeout=PATIENCE)
    assert node.returncode == 1
    (line,) = output.strip().splitlines()
    assert "svd-vlm download nobody/nothing" in line
    assert "model:=scout" in line


def test_weights_are_looked_for_without_torch() -> None:
    looked = (
        "import sys; from svd_vlm_ros.errors import UserError\n"
        "from svd_vlm_ros.node.inference.loader import check_model\n"
        "try: check_model('nobody/nothing')\n"
        "except UserError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", looked], check=True, cwd="/")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-p", "precision:=int3"], "Parameter precision is 'int3'"),
        (["-p", "visual_tokens:=0"], "between 1 and 65535"),
        (["--params-file", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_impossible_arguments_end_it_with_a_sentence(
    start: Start, arguments: list[str], named: str
) -> None:
    node = start(NODE, *arguments)
    output, _ = node.communicate(timeout=PATIENCE)
    assert node.returncode == 1
    assert named in output
    assert "Traceback" not in output


@pytest.mark.parametrize("module", [NODE, CAMERA])
def test_a_library_that_cannot_be_imported_is_a_sentence(
    start: Start, tmp_path: Path, module: str
) -> None:
    """As apt's OpenCV beside NumPy 2."""
    broken = "raise ImportError('numpy.core.multiarray failed to import')"
    (tmp_path / "cv2.py").write_text(broken)  # before the real one: python -m looks here first
    node = start(module)
    output, _ = node.communicate(timeout=PATIENCE)
    assert node.returncode == 1
    (line,) = output.strip().splitlines()
    assert "numpy.core.multiarray" in line
    assert "svd-vlm doctor" in line


def test_a_misspelt_parameter_is_named(start: Start) -> None:
    node = start(NODE, "-p", "visual_token:=5", "-p", "model:=nobody/nothing")
    output, _ = node.communicate(timeout=PATIENCE)
    assert "did you mean visual_tokens?" in output


def test_scout_camera_ends(start: Start) -> None:
    camera = start(CAMERA, "-p", "rate:=20.0")
    wait_for(camera, "Publishing 20 images a second on /image.")
    ending(camera, signal.SIGINT)


def test_scout_camera_refuses_an_impossible_rate(start: Start) -> None:
    camera = start(CAMERA, "-p", "rate:=0.0")
    output, _ = camera.communicate(timeout=PATIENCE)
    assert camera.returncode == 1
    assert "rate" in output
    assert "Traceback" not in output
