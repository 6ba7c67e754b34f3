# SPDX-License-Identifier: Apache-2.0
"""Faults in the real node: each has its status, and the next good question has its answer."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Time
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from robot import Robot, image_message, make_image, wait_until
from rosgraph_msgs.msg import Clock

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.srv import AskScene

Reply = AskScene.Response
LIMIT = 6


@pytest.fixture(scope="module")
def robot(robot_of_module: Robot) -> Robot:
    robot_of_module.start(max_new_tokens=LIMIT, request_timeout=90.0)
    return robot_of_module


@pytest.fixture(autouse=True)
def _an_image(robot: Robot) -> Any:
    robot.show(image_message(make_image(0), "front"))
    yield
    reply = robot.ask()
    assert (reply.status, reply.message) == (Reply.OK, ""), "after whatever the test did"


@pytest.mark.parametrize("part", ["question", "choices", "camera"])
@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "ÿ" * 1_000_000, "\x1b[2J", "\x07", "what\x85now"]
)
def test_monstrous_texts(robot: Robot, part: str, text: str) -> None:
    fields = {"question": "what?", part: [text, "no"] if part == "choices" else text}
    reply = robot.ask(**fields)
    assert reply.status == Reply.BAD_REQUEST, reply
    assert len(reply.message) < 300
    assert "\x1b" not in reply.message
    status, result = robot.stream(**fields).end()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Reply.BAD_REQUEST)


def test_a_thousand_requests_at_once(robot: Robot) -> None:
    """Each gets its reply; those that were taken are answered in their order, together."""
    before = robot.node.health.snapshot()
    # ROS gives a client room for 10 requests and replies: more at once would be lost on its side.
    client = robot.other.create_client(AskScene, "ask_scene", qos_profile=QoSProfile(depth=1000))
    wait_until(client.service_is_ready)
    futures = [
        client.call_async(AskScene.Request(question=f"what is number {number}?"))
        for number in range(1000)
    ]
    replies = [robot.result(future) for future in futures]
    robot.other.destroy_client(client)
    counts = Counter(reply.status for reply in replies)
    assert set(counts) <= {Reply.OK, Reply.BUSY}
    assert counts[Reply.OK] >= robot.node.settings.queue_size
    assert counts[Reply.OK] + counts[Reply.BUSY] == 1000
    assert robot.node.health.snapshot().batched > before.batched
    assert robot.node.health.snapshot().waiting == 0


def test_batched_answers_are_those_of_each_question_alone(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [
        {"question": "what is there?"},
        {"question": "is it far?", "choices": ["yes", "no"]},
        {"question": "what colour is it?", "max_new_tokens": 2},
        {"question": "?" * 1999},  # too many tokens for the model: it alone is refused
    ]
    alone = [robot.ask(**asked) for asked in questions]
    release, began = threading.Event(), threading.Event()
    ask = SceneEngine.ask

    def held(*args: Any, **options: Any) -> Any:
        began.set()
        release.wait(60)
        return ask(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SceneEngine, "ask", held)
        first = robot.send()
        assert began.wait(60)
        futures = []
        for number, asked in enumerate(questions, start=1):
            futures.append(robot.send(**asked))
            wait_until(lambda number=number: robot.worker.queue.waiting() == number)
        release.set()
        replies = [robot.result(future) for future in futures]
    assert robot.result(first).status == Reply.OK
    for reply, wanted in zip(replies, alone, strict=True):
        assert (reply.status, reply.answer) == (wanted.status, wanted.answer)
        assert list(reply.probabilities) == pytest.approx(list(wanted.probabilities), abs=1e-5)
    assert [reply.status for reply in replies][-1] == Reply.BAD_REQUEST


def test_out_of_memory_again_and_again(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    try:
        for tokens in (96, 48, 24, 16, 16):
            with monkeypatch.context() as patch:
                patch.setattr(SceneEngine, "see", fail)
                for _ in range(3):
                    robot.show(image_message(make_image(1)))
                    reply = robot.ask()
                    assert reply.status == Reply.ERROR
                    assert "out of memory" in reply.message
            wait_until(lambda tokens=tokens: robot.node.settings.visual_tokens == tokens)
        assert robot.ask().stats.visual_tokens_kept == 16
        assert robot.node.health.snapshot().out_of_memory >= 15
    finally:
        robot.node.set_parameters([Parameter("visual_tokens", value=192)])


def test_out_of_memory_now_and_then_lowers_nothing(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    for _ in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(SceneEngine, "ask", fail)
            assert robot.ask().status == Reply.ERROR
        assert robot.ask().status == Reply.OK
    assert robot.node.settings.visual_tokens == 192


def kill(thread: int | None) -> None:
    """Raise SystemExit in a thread, wherever it is."""
    assert thread is not None
    found = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(SystemExit)
    )
    assert found == 1


def test_the_inference_thread_is_killed(robot: Robot) -> None:
    inference = robot.worker
    assert inference is not None
    kill(inference.thread_id)
    # It is hit when it next runs Python code: at the latest with this question.
    reply = robot.ask()
    assert reply.status in (Reply.OK, Reply.ERROR)
    wait_until(lambda: inference.restarts == 1 and inference.alive)
    assert robot.ask().status == Reply.OK


def test_a_failing_selector_is_taken_back(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no such thing")

    (done,) = robot.node.set_parameters([Parameter("selector", value="guess")])
    assert not done.successful
    assert "There is no selector 'guess'" in done.reason
    with monkeypatch.context() as patch:
        patch.setattr(SceneEngine, "use_selector", fail)
        (done,) = robot.node.set_parameters([Parameter("selector", value="grid")])
        assert done.successful
        wait_until(lambda: robot.node.settings.selector == "svd-cover")
        assert robot.ask().stats.selector == "svd-cover"


def test_the_clock_jumps_back(robot: Robot) -> None:
    """Simulated time, as from a bag that begins anew: no image from before the jump is used."""
    node = robot.node
    clock = robot.other.create_publisher(Clock, "/clock", 1)

    def tick(seconds: int) -> None:
        def ticked() -> bool:
            clock.publish(Clock(clock=Time(sec=seconds)))
            return node.get_clock().now().nanoseconds == seconds * 10**9

        wait_until(ticked)

    def shown(number: int, seconds: int) -> Any:
        message = image_message(make_image(number))
        message.header.stamp = Time(sec=seconds)
        return robot.show(message)

    node.set_parameters([Parameter("use_sim_time", value=True)])
    try:
        tick(1000)
        shown(2, 1000)
        reply = robot.ask(max_image_age=5.0)
        assert reply.status == Reply.OK
        assert reply.stats.image_age < 5.0  # by the steady clock, as simulated time stands still
        tick(1010)
        assert robot.ask(max_image_age=5.0, timeout=0.2).status == Reply.STALE_IMAGE
        tick(100)
        late = robot.ask(not_before=Time(sec=100), timeout=0.3)
        assert late.status in (Reply.STALE_IMAGE, Reply.NO_IMAGE), "its stamp alone would do"
        new = shown(3, 101)
        reply = robot.ask(not_before=Time(sec=100), max_image_age=50.0)
        assert (reply.status, reply.header) == (Reply.OK, new.header)
    finally:
        node.set_parameters([Parameter("use_sim_time", value=False)])
        robot.other.destroy_publisher(clock)
        robot.show(image_message(make_image(0), "front"))
