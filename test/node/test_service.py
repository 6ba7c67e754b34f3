# SPDX-License-Identifier: Apache-2.0
"""`ask_scene` over DDS: the right image in each reply, and every fault followed by a good answer.

The model is tiny and random, but always the same: a second engine with its weights says what the
node must answer about an image.
"""

from __future__ import annotations

import array
import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from robot import TINY, Robot, image_message, make_image, reference_engine, wait_until
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.node.inference.tasks import Priority
from svd_vlm_ros.srv import AskScene

Reply = AskScene.Response
QUESTION = "what is there?"
LIMIT = 12  # tokens of an answer
CAMERAS = {
    "cameras": ["front", "rear", "files", "never"],
    "camera.front.topic": "front/image",
    "camera.rear.topic": "rear/image",
    "camera.files.topic": "files/image/compressed",
    "camera.files.compressed": True,
    "camera.never.topic": "never/image",
}


@pytest.fixture(scope="module")
def robot(robot_of_module: Robot) -> Robot:
    robot_of_module.start(max_new_tokens=LIMIT, request_timeout=60.0, **CAMERAS)
    return robot_of_module


@pytest.fixture(autouse=True)
def _an_image_on_the_first_camera(robot: Robot) -> None:
    robot.show(image_message(make_image(0), "front"), "front")


@pytest.fixture
def busy(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The model is at work on a question about the rear camera until this is set."""
    robot.show(image_message(make_image(99), "rear"), "rear")
    release, began = threading.Event(), threading.Event()
    see = SceneEngine.see

    def wait_and_see(engine: SceneEngine, *args: Any, **options: Any) -> Any:
        if not began.is_set():
            began.set()
            release.wait(60)
        return see(engine, *args, **options)

    monkeypatch.setattr(SceneEngine, "see", wait_and_see)
    future = robot.send(camera="rear")
    assert began.wait(60)
    yield release
    release.set()
    assert robot.result(future).status == Reply.OK


def expected(pixels: np.ndarray, question: str = QUESTION, tokens: int = 192) -> str:
    engine = reference_engine()
    scene = engine.see(pixels, visual_tokens=tokens)
    return engine.ask(scene, question, max_new_tokens=LIMIT).text


def compressed_message(pixels: np.ndarray, cut: int | None = None) -> CompressedImage:
    _, data = cv2.imencode(".jpg", pixels[..., ::-1])
    return CompressedImage(
        header=Header(frame_id="files"),
        format="jpeg",
        data=array.array("B", data.tobytes()[:cut]),
    )


def assert_good_answer(robot: Robot) -> None:
    reply = robot.ask(camera="front")
    assert (reply.status, reply.message) == (Reply.OK, "")
    assert reply.answer == expected(make_image(0))


def nanoseconds(stamp: Any) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def test_the_answer_is_about_the_image_whose_header_it_carries(robot: Robot) -> None:
    """Two cameras by turns, a new image each time."""
    answers = []
    for number in range(1, 7):
        for camera in ("front", "rear"):
            pixels = make_image(number if camera == "front" else 100 + number)
            shown = robot.show(image_message(pixels, f"{camera}_optical"), camera)
            reply = robot.ask(camera=camera)
            assert (reply.status, reply.message) == (Reply.OK, "")
            assert reply.camera == camera
            assert reply.header == shown.header
            assert reply.answer == expected(pixels)
            answers.append(reply.answer)
    assert len(set(answers)) == len(answers), "the images have different answers"


def test_stats(robot: Robot) -> None:
    taken = nanoseconds(robot.show(image_message(make_image(20), "front"), "front").header.stamp)
    asked = nanoseconds(robot.stamp())
    first = robot.ask()
    replied, second = nanoseconds(robot.stamp()), robot.ask()
    stats = first.stats
    assert (stats.model, stats.precision, stats.selector) == ("random:tiny", "fp32", "svd-cover")
    assert (stats.visual_tokens_kept, stats.visual_tokens_total) == (192, 576)
    assert 192 < stats.prompt_tokens < 330
    engine = reference_engine()
    wanted = engine.ask(engine.see(make_image(20)), QUESTION, max_new_tokens=LIMIT)
    assert stats.answer_tokens == wanted.answer_tokens
    assert stats.encode_seconds > 0
    assert stats.select_seconds > 0
    assert stats.prefill_seconds > 0
    assert stats.time_to_first_token > stats.encode_seconds
    assert asked - taken <= stats.image_age * 1e9 + 1e6, "it is the age when the answer began"
    assert stats.image_age * 1e9 <= replied - taken + 1e6
    assert first.confidence == pytest.approx(wanted.confidence, abs=1e-4)
    assert first.finish_reason == wanted.finish_reason
    assert list(first.probabilities) == []
    assert not stats.scene_reused
    assert second.stats.scene_reused
    assert second.stats.encode_seconds == second.stats.select_seconds == 0


def test_a_scene_is_reused_for_its_image_and_budget_alone(robot: Robot) -> None:
    def reused(**fields: Any) -> bool:
        reply = robot.ask(**fields)
        assert reply.status == Reply.OK
        return reply.stats.scene_reused

    robot.show(image_message(make_image(30), "front"), "front")
    assert not reused()
    assert reused(question="another question")
    assert not reused(visual_tokens=16)
    assert reused(visual_tokens=16)
    robot.show(image_message(make_image(31), "rear"), "rear")
    assert not reused(camera="rear", visual_tokens=16)
    assert reused(visual_tokens=16), "another camera does not touch it"
    robot.show(image_message(make_image(30), "front"), "front")
    assert not reused(visual_tokens=16), "the same pixels in a new message are a new image"


def test_visual_tokens_of_the_request(robot: Robot) -> None:
    reply = robot.ask(visual_tokens=16)
    assert reply.stats.visual_tokens_kept == 16
    assert reply.answer == expected(make_image(0), tokens=16)
    assert robot.ask(visual_tokens=65535).stats.visual_tokens_kept == 432, "all but padding"


def test_choices(robot: Robot) -> None:
    reply = robot.ask(choices=["yes", "no", "a red car"])
    assert reply.status == Reply.OK
    assert reply.answer in ("yes", "no", "a red car")
    assert math.isclose(sum(reply.probabilities), 1.0, rel_tol=1e-5)
    assert reply.confidence == max(reply.probabilities)
    assert reply.finish_reason == "choice"


def test_max_new_tokens_of_the_request(robot: Robot) -> None:
    reply = robot.ask(max_new_tokens=3)
    assert reply.stats.answer_tokens == 3
    assert reply.finish_reason == "length"


def test_compressed_images(robot: Robot) -> None:
    shown = robot.show(compressed_message(make_image(40)), "files")
    reply = robot.ask(camera="files")
    assert (reply.status, reply.message) == (Reply.OK, "")
    assert reply.header == shown.header
    decoded = cv2.imdecode(np.frombuffer(shown.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert reply.answer == expected(np.ascontiguousarray(decoded))


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"question": ""}, Reply.BAD_REQUEST, "question is empty"),
        ({"question": "x" * 100_000}, Reply.BAD_REQUEST, "100000 characters"),
        ({"question": "?" * 1999}, Reply.BAD_REQUEST, "tokens"),
        ({"camera": "left"}, Reply.BAD_REQUEST, "front, rear, files, never"),
        ({"camera": "never"}, Reply.NO_IMAGE, "/never/image"),
        ({"choices": ["yes", "yes"]}, Reply.BAD_REQUEST, "same"),
        ({"timeout": -1.0}, Reply.BAD_REQUEST, "timeout"),
        ({"max_image_age": 1e-6, "timeout": 0.3}, Reply.STALE_IMAGE, "old by its stamp"),
    ],
)
def test_faults_of_requests(robot: Robot, fields: dict, status: int, named: str) -> None:
    reply = robot.ask(**{"question": QUESTION, **fields})
    assert reply.status == status, reply
    assert named in reply.message
    assert reply.answer == ""
    assert_good_answer(robot)


def wrong_size(message: Any) -> None:
    message.height += 1


def wrong_step(message: Any) -> None:
    message.step -= 1


def wrong_encoding(message: Any) -> None:
    message.encoding = "rgb12"


def no_data(message: Any) -> None:
    message.data = array.array("B")


def no_size(message: Any) -> None:
    message.width = 0


def huge(message: Any) -> None:
    message.width = message.height = 100_000


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (wrong_size, "height 49 times step 192"),
        (wrong_step, "step is 191"),
        (wrong_encoding, "rgb12"),
        (no_data, "0 bytes"),
        (no_size, "0x48"),
        (huge, "max_image_pixels"),
    ],
)
def test_faults_of_images(robot: Robot, spoil: Callable[[Any], None], named: str) -> None:
    message = image_message(make_image(0), "front")
    spoil(message)
    robot.show(message, "front")
    reply = robot.ask(camera="front")
    assert reply.status == Reply.NO_IMAGE, reply
    assert "'front' cannot be read" in reply.message
    assert named in reply.message
    robot.show(image_message(make_image(0), "front"), "front")
    assert_good_answer(robot)


def test_truncated_jpeg(robot: Robot) -> None:
    robot.show(compressed_message(make_image(41), cut=-20), "files")
    reply = robot.ask(camera="files")
    assert reply.status == Reply.NO_IMAGE
    assert "truncated JPEG" in reply.message
    assert_good_answer(robot)


def test_not_before_waits_for_a_newer_image(robot: Robot) -> None:
    future = robot.send(camera="front", not_before=robot.stamp())
    other = robot.ask(camera="rear") if robot.cameras["rear"].latest else None
    assert other is None or other.status == Reply.OK, "others go on meanwhile"
    assert not future.done()
    shown = robot.show(image_message(make_image(50), "front"), "front")
    reply = robot.result(future)
    assert reply.status == Reply.OK
    assert reply.header == shown.header
    assert reply.answer == expected(make_image(50))


def test_not_before_in_vain(robot: Robot) -> None:
    reply = robot.ask(not_before=robot.stamp(), timeout=0.3)
    assert reply.status == Reply.STALE_IMAGE
    assert "not_before" in reply.message
    reply = robot.ask(camera="never", not_before=robot.stamp(), timeout=0.3)
    assert reply.status == Reply.NO_IMAGE
    assert_good_answer(robot)


def test_timeout_while_the_model_is_busy(robot: Robot, busy: threading.Event) -> None:
    reply = robot.ask(camera="front", timeout=0.2)
    assert reply.status == Reply.TIMEOUT
    assert "did not begin within 0.2 s" in reply.message
    busy.set()
    assert_good_answer(robot)


def test_timeout_within_an_answer(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is stopped between two tokens, and what it had written is in the reply."""
    ask = SceneEngine.ask

    def slow(engine: SceneEngine, *args: Any, **options: Any) -> Any:
        answered = threading.Event()
        stop = options["should_stop"]

        def count() -> str | None:
            if answered.is_set():
                wait_until(stop)
            answered.set()
            return stop()

        return ask(engine, *args, **{**options, "should_stop": count})

    monkeypatch.setattr(SceneEngine, "ask", slow)
    reply = robot.ask(timeout=0.3)
    assert reply.status == Reply.TIMEOUT
    assert "not complete within 0.3 s" in reply.message
    monkeypatch.undo()
    assert_good_answer(robot)


def test_full_queue(robot: Robot, busy: threading.Event) -> None:
    inference = robot.worker
    assert inference is not None
    size = robot.node.settings.queue_size
    waiting = [robot.send() for _ in range(size)]
    wait_until(lambda: inference.queue.waiting(Priority.QUESTION) == size)
    reply = robot.ask()
    assert reply.status == Reply.BUSY
    assert f"{size} questions wait" in reply.message
    busy.set()
    for future in waiting:
        assert robot.result(future).status == Reply.OK


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (MemoryError(), "out of memory"),
        (ValueError("of all things"), "ValueError: of all things"),
    ],
)
@pytest.mark.parametrize("stage", ["see", "ask"])
def test_a_failing_engine(
    robot: Robot, monkeypatch: pytest.MonkeyPatch, stage: str, error: Exception, named: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    robot.show(image_message(make_image(0), "front"), "front")
    monkeypatch.setattr(SceneEngine, stage, fail)
    reply = robot.ask()
    assert reply.status == Reply.ERROR
    assert named in reply.message
    monkeypatch.undo()
    assert_good_answer(robot)


def test_the_model_works_on_its_own_thread(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, set[int]] = {"see": set(), "ask": set(), "choose": set()}
    for stage, seen in threads.items():
        inner = getattr(SceneEngine, stage)

        def recorded(*args: Any, inner: Any = inner, seen: set = seen, **options: Any) -> Any:
            seen.add(threading.get_ident())
            return inner(*args, **options)

        monkeypatch.setattr(SceneEngine, stage, recorded)
    robot.show(image_message(make_image(60), "front"), "front")
    assert robot.ask().status == Reply.OK
    assert robot.ask(choices=["yes", "no"]).status == Reply.OK
    inference = robot.worker
    assert inference is not None
    assert all(seen == {inference.thread_id} for seen in threads.values())
    assert inference.thread_id != robot.executor_thread


def test_requests_are_answered_while_the_model_is_busy(robot: Robot, busy: threading.Event) -> None:
    """The executor is free: it refuses, takes images, and serves parameters meanwhile."""
    assert robot.ask(question="").status == Reply.BAD_REQUEST
    shown = robot.show(image_message(make_image(70), "front"), "front")
    assert robot.cameras["front"].latest.message.header == shown.header
    future = robot.send(camera="front")
    busy.set()
    assert robot.result(future).header == shown.header, "the newest image when its turn came"


def test_requests_leave_nothing_behind(robot: Robot) -> None:
    """What each request leaves, however little, brings a node down within weeks."""

    def references() -> int:
        gc.collect()
        return sum(type(each) is weakref.ref for each in gc.get_objects())

    robot.ask()
    before = references()
    for _ in range(60):
        robot.ask()
    assert references() < before + 30


def test_random_models_do_not_answer_by_themselves(robot: Robot) -> None:
    from rclpy.parameter import Parameter

    assert TINY["allow_random_model"]
    robot.node.set_parameters([Parameter("allow_random_model", value=False)])
    try:
        reply = robot.ask()
        assert reply.status == Reply.ERROR
        assert "allow_random_model" in reply.message
    finally:
        robot.node.set_parameters([Parameter("allow_random_model", value=True)])
    assert_good_answer(robot)
