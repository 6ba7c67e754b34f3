# SPDX-License-Identifier: Apache-2.0
"""`ask_client.py` and `stream_client.py` against the real node with scout, over DDS."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from robot import PATIENCE, Robot, image_message

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.srv import AskScene

Start = Callable[..., subprocess.Popen[str]]
SCENE = drive(8.0, 0)
CAMERA = "front"


@pytest.fixture
def robot(scout: Callable[..., Robot]) -> Robot:
    """A robot that sees SCENE."""
    made = scout(cameras=[CAMERA], **{"camera.front.topic": "image"})
    made.show(image_message(render(SCENE), CAMERA), CAMERA)
    return made


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_ask(robot: Robot, start: Start) -> None:
    status, out, err = ended(start("ask_client.py", "what is the ground?"))
    assert (status, err) == (0, "")
    answer, image = out.splitlines()
    assert answer == SCENE.ground
    stamp = robot.cameras[CAMERA].latest.message.header.stamp
    assert f"image {stamp.sec}.{stamp.nanosec:09d} of camera front, 192 of 576" in image

    grounds = ["grass", "gravel", "asphalt", "sand", "snow"]
    asked = ("what is the ground?", "--camera", CAMERA, "--choices", *grounds)
    status, out, err = ended(start("ask_client.py", *asked))
    assert (status, err) == (0, "")
    first, *rows = out.splitlines()
    assert first == SCENE.ground
    weighed = dict(row.strip().split(": ") for row in rows[:-1])
    assert list(weighed) == grounds
    assert max(weighed, key=lambda choice: float(weighed[choice])) == SCENE.ground

    status, out, err = ended(start("ask_client.py", "what is there?", "--camera", "nobody"))
    assert (status, out) == (1, "")
    assert "'nobody'" in err
    assert CAMERA in err


def test_a_lost_reply_is_asked_for_again(
    robot: Robot, example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that never answers its first call is what a lost reply looks like."""
    asked: list[str] = []

    async def late(request: Any, response: Any) -> Any:
        asked.append(request.question)
        if len(asked) == 1:
            await Future()
        response.answer = "yes"
        return response

    group = ReentrantCallbackGroup()  # the first call may not hold the second
    robot.other.create_service(AskScene, "slow/ask_scene", late, callback_group=group)
    module = example("ask_client")
    node = rclpy.create_node("asks", namespace="slow", context=robot.context)
    executor = rclpy.executors.SingleThreadedExecutor(context=robot.context)
    monkeypatch.setattr(rclpy, "get_global_executor", lambda: executor)
    monkeypatch.setattr(module, "SLACK", 0.5)
    try:
        reply = module.ask(node, AskScene.Request(question="is it?", timeout=0.5))
    finally:
        executor.shutdown()
        node.destroy_node()
    assert reply.answer == "yes"
    assert asked == ["is it?"] * 2


def test_stream(robot: Robot, start: Start) -> None:
    reply = robot.ask("describe the scene.")
    status, out, err = ended(start("stream_client.py", "describe the scene."))
    assert (status, err) == (0, "")
    written, last = out.splitlines()
    assert written == reply.answer
    assert last.startswith(f"stop, {reply.stats.answer_tokens} tokens.")


@pytest.mark.parametrize("by", ["words", "Ctrl-C"])
def test_cancel(robot: Robot, start: Start, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """The model stands still after four tokens, until it is told to stop."""
    ask = SceneEngine.ask

    def held(engine: SceneEngine, *args: Any, **options: Any) -> Any:
        stop, made = options["should_stop"], 0

        def step() -> str | None:
            nonlocal made
            made += 1
            while made > 4 and not stop():
                time.sleep(0.01)
            return stop()

        return ask(engine, *args, **{**options, "should_stop": step})

    monkeypatch.setattr(SceneEngine, "ask", held)
    words = ("--most-words", "2") if by == "words" else ()
    process = start("stream_client.py", "describe the scene.", *words)
    read = ""
    if by == "Ctrl-C":
        assert process.stdout is not None
        read = process.stdout.read(3)  # it writes
        process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    assert (status, err) == (0, "")
    assert "\ncanceled, " in read + out
    assert 2 <= len((read + out).split("\n")[0].split()) <= 5
