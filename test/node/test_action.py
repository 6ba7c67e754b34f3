# SPDX-License-Identifier: Apache-2.0
"""`stream_answer`: the service's answers, published while they are written, and a real cancel.

Cancel and deadline are measured in tokens: a text that is heard n times has n tokens.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from robot import Robot, Spinner, image_message, make_image, wait_until

from svd_vlm_ros.action import StreamAnswer
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.srv import AskScene

Result = StreamAnswer.Result
LIMIT = 12  # tokens of an answer


@pytest.fixture(scope="module")
def robot(robot_of_module: Robot) -> Robot:
    robot_of_module.start(max_new_tokens=LIMIT, request_timeout=60.0)
    return robot_of_module


@pytest.fixture(autouse=True)
def _an_image(robot: Robot) -> None:
    robot.show(image_message(make_image(0), "front"))


class Stepper:
    """Lets the engine's next token be made only when a test says so; counts the tokens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allowed = 0
        self.made = 0
        self._turn = threading.Condition()
        ask = SceneEngine.ask

        def slow(engine: SceneEngine, *args: Any, **options: Any) -> Any:
            stop = options["should_stop"]

            def step() -> str | None:
                with self._turn:
                    self._turn.wait_for(lambda: self.made < self.allowed or stop(), 60)
                    reason = stop()
                    self.made += not reason
                return reason

            return ask(engine, *args, **{**options, "should_stop": step})

        monkeypatch.setattr(SceneEngine, "ask", slow)

    def allow(self, tokens: int) -> None:
        with self._turn:
            self.allowed += tokens
            self._turn.notify_all()

    def look(self) -> None:
        """Let a waiting engine look whether it shall stop."""
        with self._turn:
            self._turn.notify_all()


@pytest.fixture
def stepper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stepper]:
    made = Stepper(monkeypatch)
    yield made
    made.allow(10_000)


def same(result: Any, reply: Any) -> None:
    """Result and response have the same fields; only times and the reuse may differ.

    The first question on a scene is read in one pass with the image, so that some CPUs add up in
    another order: the last digit of a float32 is free.
    """
    for name in ("status", "message", "header", "camera", "answer", "finish_reason"):
        assert getattr(result, name) == getattr(reply, name), name
    assert list(result.probabilities) == pytest.approx(list(reply.probabilities), abs=1e-6)
    assert result.confidence == pytest.approx(reply.confidence, abs=1e-6)
    assert result.stats.answer_tokens == reply.stats.answer_tokens


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, GoalStatus.STATUS_SUCCEEDED),
        ({"choices": ["yes", "no"]}, GoalStatus.STATUS_SUCCEEDED),
        ({"max_new_tokens": 3}, GoalStatus.STATUS_SUCCEEDED),
        ({"visual_tokens": 16}, GoalStatus.STATUS_SUCCEEDED),
        ({"question": ""}, GoalStatus.STATUS_ABORTED),
        ({"camera": "left"}, GoalStatus.STATUS_ABORTED),
        ({"choices": ["yes"]}, GoalStatus.STATUS_ABORTED),
        ({"max_image_age": 1e-6, "timeout": 0.2}, GoalStatus.STATUS_ABORTED),
    ],
)
def test_the_same_result_as_the_service(robot: Robot, fields: dict, status: int) -> None:
    asked = {"question": "what is there?", **fields}
    reply = robot.ask(**asked)
    stream = robot.stream(**asked)
    found, result = stream.end()
    assert found == status
    if "max_image_age" in fields:
        assert result.status == reply.status == Result.STALE_IMAGE
    else:
        same(result, reply)
    if result.status == Result.OK and not result.probabilities:
        wait_until(lambda: stream.heard and stream.heard[-1].text == result.answer)
        assert "".join(feedback.piece for feedback in stream.heard) == result.answer
        texts = [feedback.text for feedback in stream.heard]
        assert all(b.startswith(a) and b != a for a, b in itertools.pairwise(texts))


def test_feedback_comes_while_the_answer_is_made(robot: Robot, stepper: Stepper) -> None:
    stream = robot.stream()
    stepper.allow(4)
    wait_until(lambda: stream.heard)
    stepper.allow(100)
    status, result = stream.end()
    assert status == GoalStatus.STATUS_SUCCEEDED
    wait_until(lambda: stream.heard[-1].text == result.answer)
    assert len(stream.heard) > 1


def test_cancel_takes_one_token(robot: Robot, stepper: Stepper) -> None:
    stream = robot.stream()
    stepper.allow(5)
    wait_until(lambda: stepper.made == 5)
    assert len(stream.cancel().goals_canceling) == 1
    stepper.look()
    status, result = stream.end()
    assert status == GoalStatus.STATUS_CANCELED
    assert (result.status, result.finish_reason) == (Result.CANCELED, "canceled")
    assert result.message == "The goal was canceled."
    assert result.stats.answer_tokens == stepper.made == 5, "none after the cancel"
    assert result.header.frame_id == "front"
    assert result.answer
    stepper.allow(10_000)
    assert robot.ask().status == AskScene.Response.OK


def test_the_deadline_takes_one_token(robot: Robot, stepper: Stepper) -> None:
    future = robot.send(timeout=1.5)
    stepper.allow(3)
    wait_until(lambda: stepper.made == 3)
    job = robot.current()
    wait_until(lambda: job.should_stop() == "timeout")
    stepper.look()
    reply = robot.result(future)
    assert reply.status == AskScene.Response.TIMEOUT
    wait_until(lambda: robot.current() is not job)
    assert stepper.made == 3, "none after the deadline"


def test_cancel_while_it_waits(robot: Robot, stepper: Stepper) -> None:
    first = robot.stream()
    stepper.allow(1)
    wait_until(lambda: stepper.made == 1)
    waiting = robot.stream()
    wait_until(lambda: robot.worker.queue.waiting() == 1)
    waiting.cancel()
    status, result = waiting.end()
    assert status == GoalStatus.STATUS_CANCELED
    assert (result.status, result.stats.answer_tokens) == (Result.CANCELED, 0)
    stepper.allow(10_000)
    assert first.end()[0] == GoalStatus.STATUS_SUCCEEDED, "the other one goes on"


def test_a_waiting_goal_for_a_newer_image_can_be_canceled(robot: Robot) -> None:
    stream = robot.stream(not_before=robot.stamp())
    wait_until(lambda: robot.worker.queue.waiting() == 1)
    assert robot.ask().status == AskScene.Response.OK, "nobody waits for it"
    stream.cancel()
    assert stream.end()[1].status == Result.CANCELED


def test_calls_from_a_callback_of_a_node_in_the_same_executor(robot: Robot) -> None:
    """The caller shares the node's one thread, and waits for the answers inside of its callback."""
    done: list[Any] = []
    caller = rclpy.create_node("caller", context=robot.context)
    group = ReentrantCallbackGroup()  # else its own timer would keep the answers out
    service = caller.create_client(AskScene, "ask_scene", callback_group=group)
    action = ActionClient(caller, StreamAnswer, "stream_answer", callback_group=group)
    wait_until(lambda: service.service_is_ready() and action.server_is_ready())

    async def call() -> None:
        timer.cancel()
        done.append((await service.call_async(AskScene.Request(question="what?"))).status)
        goal = await action.send_goal_async(StreamAnswer.Goal(question="what?"))
        done.append((await goal.get_result_async()).result.status)

    timer = caller.create_timer(0.01, call)
    robot.node.executor.add_node(caller)
    wait_until(lambda: len(done) == 2)
    robot.node.executor.remove_node(caller)
    assert done == [Result.OK, Result.OK]
    action.destroy()
    caller.destroy_node()


def test_a_blocking_call_from_a_callback_of_another_node(robot: Robot) -> None:
    """In the same process, with an executor of its own for the client: the node needs no help."""
    done: list[int] = []
    spinner = Spinner(robot.context)
    caller = rclpy.create_node("blocker", context=robot.context)
    spinner.start(caller)
    trigger = rclpy.create_node("trigger", context=robot.context)
    service = caller.create_client(AskScene, "ask_scene")
    wait_until(service.service_is_ready)
    timer = trigger.create_timer(
        0.01, lambda: done.append(service.call(AskScene.Request(question="what?")).status)
    )
    executor = SingleThreadedExecutor(context=robot.context)
    executor.add_node(trigger)
    wait_until(lambda: executor.spin_once(timeout_sec=0.1) or done)
    timer.cancel()
    assert done[0] == Result.OK
    executor.shutdown()
    spinner.stop()
    trigger.destroy_node()
    caller.destroy_node()


def test_nothing_is_kept_of_goals_that_are_over(robot: Robot) -> None:
    assert robot.stream().end()[0] == GoalStatus.STATUS_SUCCEEDED
    assert not robot.node._action._requests
