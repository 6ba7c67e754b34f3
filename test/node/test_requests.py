# SPDX-License-Identifier: Apache-2.0
"""Checking a request and choosing its image: decisions that need neither node nor model."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd_vlm_ros.facts import MAX_CHOICES
from svd_vlm_ros.node.cameras.frames import NANOSECONDS, Frame
from svd_vlm_ros.node.inference.freshness import choose_frame, image_age, late_refusal
from svd_vlm_ros.node.inference.questions import Question, check_request
from svd_vlm_ros.node.inference.replies import RequestError, Status
from svd_vlm_ros.node.parameters.settings import Limits
from svd_vlm_ros.srv import AskScene

LIMITS = Limits(
    cameras=("front", "rear"),
    max_new_tokens=64,
    max_image_age=10.0,
    request_timeout=30.0,
    max_question_length=200,
)


def frame(stamp: float, arrival: float = 0.0) -> Frame:
    seconds = int(stamp)
    time = SimpleNamespace(sec=seconds, nanosec=round((stamp - seconds) * NANOSECONDS))
    return Frame(SimpleNamespace(header=SimpleNamespace(stamp=time)), arrival, 1)


def request(**fields: object) -> AskScene.Request:
    return AskScene.Request(**{"question": "what is there?", **fields})


def test_statuses_are_those_of_the_service() -> None:
    for status in Status:
        assert getattr(AskScene.Response, status.name) == status


def test_zeros_mean_the_nodes_settings() -> None:
    question = check_request(request(question="  what is there? "), LIMITS)
    assert question == Question(
        prompt="what is there?",
        camera="front",
        max_new_tokens=64,
        max_image_age=10.0,
        timeout=30.0,
    )


def test_what_is_asked_for_goes_before_the_settings() -> None:
    asked = request(
        camera="rear", visual_tokens=16, max_new_tokens=5, max_image_age=0.5, timeout=2.0
    )
    asked.not_before.sec, asked.not_before.nanosec = 7, 5
    asked.choices = [" yes", "no"]
    question = check_request(asked, LIMITS)
    assert question.camera == "rear"
    assert question.choices == ("yes", "no")
    assert question.visual_tokens == 16
    assert question.max_new_tokens == 5
    assert question.not_before == 7 * NANOSECONDS + 5
    assert question.max_image_age == 0.5
    assert question.timeout == 2.0


def test_no_limit_of_age() -> None:
    limits = replace(LIMITS, max_image_age=0.0)
    assert check_request(request(), limits).max_image_age == math.inf


def test_the_names_of_special_tokens_are_left_to_the_models_prompt() -> None:
    """It breaks them up in questions and choices (test/models/test_prompt.py)."""
    asked = check_request(request(question="what is <image>?", choices=["<image>", "</s>"]), LIMITS)
    assert (asked.prompt, asked.choices) == ("what is <image>?", ("<image>", "</s>"))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"question": ""}, "empty"),
        ({"question": " \n\t"}, "empty"),
        ({"question": "x" * 201}, "201 characters"),
        ({"camera": "left"}, "front, rear"),
        ({"choices": ["yes"]}, "1 choices"),
        ({"choices": [str(number) for number in range(MAX_CHOICES + 1)]}, "65 choices"),
        ({"choices": ["yes", " "]}, "empty"),
        ({"choices": ["yes", "no", "yes "]}, "same"),
        ({"choices": ["y" * 150, "n" * 150]}, "200 characters"),
        ({"max_new_tokens": 65535}, "65535"),
        ({"timeout": -1.0}, "timeout is -1"),
        ({"timeout": math.nan}, "timeout is nan"),
        ({"timeout": math.inf}, "timeout is inf"),
        ({"max_image_age": -0.5}, "max_image_age is -0.5"),
    ],
)
def test_bad_request_is_named(fields: dict, named: str) -> None:
    with pytest.raises(RequestError, match=re.escape(named)) as error:
        check_request(request(**fields), LIMITS)
    assert error.value.status is Status.BAD_REQUEST
    assert str(error.value).endswith(".")


@given(
    st.builds(
        SimpleNamespace,
        question=st.text(max_size=300),
        camera=st.sampled_from(["", "front", "rear", "x"]) | st.text(max_size=5),
        choices=st.lists(st.text(max_size=30), max_size=70),
        visual_tokens=st.integers(0, 65535),
        max_new_tokens=st.integers(0, 65535),
        not_before=st.builds(
            SimpleNamespace, sec=st.integers(-(2**31), 2**31 - 1), nanosec=st.integers(0, 2**32 - 1)
        ),
        max_image_age=st.floats(width=32),
        timeout=st.floats(width=32),
    )
)
def test_any_request_is_checked_or_refused(asked: SimpleNamespace) -> None:
    try:
        question = check_request(asked, LIMITS)
    except RequestError:
        return
    assert question.prompt
    assert question.camera in LIMITS.cameras
    assert 0 < question.timeout < math.inf
    assert question.max_image_age > 0
    assert question.not_before >= 0


def test_no_image_yet() -> None:
    with pytest.raises(RequestError, match="'front' has sent no image on /image") as error:
        choose_frame(Question("?", "front"), None, "/image", 0, 0.0)
    assert error.value.status is Status.NO_IMAGE


def test_not_before_waits_for_an_image() -> None:
    question = Question("?", "front", not_before=10 * NANOSECONDS, waits=True)
    assert choose_frame(question, None, "/image", 0, 0.0) is None
    assert choose_frame(question, frame(9.999), "/image", 11 * NANOSECONDS, 0.0) is None
    exact = frame(10.0)
    assert choose_frame(question, exact, "/image", 11 * NANOSECONDS, 0.0).frame is exact


def test_stale_image() -> None:
    question = Question("?", "front", max_image_age=2.0)
    fresh = frame(8.0)
    assert choose_frame(question, fresh, "/image", 10 * NANOSECONDS, 0.0).frame is fresh
    with pytest.raises(RequestError, match=r"4\.0 s old by its stamp") as error:
        choose_frame(question, frame(6.0), "/image", 10 * NANOSECONDS, 1.0)
    assert error.value.status is Status.STALE_IMAGE


@pytest.mark.parametrize(
    ("stamp", "arrival", "told"),
    [
        (6.0, 99.0, "4.0 s old by its stamp (it arrived 1.0 s ago)"),
        (0.0, 97.0, "3.0 s old by its arrival, but 2 s"),
        (3610.0, 95.0, "5.0 s old by its arrival (its stamp was 3605.0 s ahead of the clock)"),
    ],
)
def test_by_what_an_image_is_too_old(stamp: float, arrival: float, told: str) -> None:
    question = Question("?", "front", max_image_age=2.0)
    old = replace(frame(stamp, arrival=arrival), clock=5 * NANOSECONDS)
    with pytest.raises(RequestError, match=re.escape(told)):
        choose_frame(question, old, "/image", 10 * NANOSECONDS, 100.0)


def test_a_question_with_a_wish_for_the_age_waits() -> None:
    question = Question("?", "front", max_image_age=2.0, timeout=3.0, waits=True)
    old = frame(6.0)
    assert choose_frame(question, old, "/image", 10 * NANOSECONDS, 0.0) is None
    refusal = late_refusal(question, old, "/image", False, 10 * NANOSECONDS, 0.0)
    assert refusal.status is Status.STALE_IMAGE
    assert "at most 2 s old" in str(refusal)


def test_a_clock_that_was_set_back() -> None:
    """An image from before does not count as one from the future."""
    before = replace(frame(100.0, arrival=50.0), clock=100 * NANOSECONDS)
    assert image_age(before, 10 * NANOSECONDS, 53.0) == 3.0
    question = Question("?", "front", not_before=20 * NANOSECONDS, timeout=3.0, waits=True)
    assert choose_frame(question, before, "/image", 10 * NANOSECONDS, 53.0) is None
    refusal = late_refusal(question, before, "/image", False, 10 * NANOSECONDS, 53.0)
    assert refusal.status is Status.STALE_IMAGE
    assert choose_frame(question, before, "/image", 101 * NANOSECONDS, 53.0).frame is before


def test_age_by_stamp_or_arrival() -> None:
    assert image_age(frame(6.0, arrival=99.0), 10 * NANOSECONDS, 100.0) == 4.0
    assert image_age(frame(0.0, arrival=99.0), 10 * NANOSECONDS, 100.0) == 1.0, "no stamp"
    assert image_age(frame(12.0, arrival=99.0), 10 * NANOSECONDS, 100.0) == 1.0, "clocks differ"


@pytest.mark.parametrize(
    ("not_before", "latest", "begun", "status"),
    [
        (0, 5.0, True, Status.TIMEOUT),
        (0, 5.0, False, Status.TIMEOUT),
        (10, None, False, Status.NO_IMAGE),
        (10, 5.0, False, Status.STALE_IMAGE),
        (10, 11.0, False, Status.TIMEOUT),
        (10, 11.0, True, Status.TIMEOUT),
    ],
)
def test_why_a_request_is_late(
    not_before: int, latest: float | None, begun: bool, status: Status
) -> None:
    question = Question(
        "?", "front", not_before=not_before * NANOSECONDS, timeout=3.0, waits=not_before > 0
    )
    newest = None if latest is None else frame(latest)
    refusal = late_refusal(question, newest, "/image", begun, 12 * NANOSECONDS, 0.0)
    assert refusal.status is status
    assert "within 3 s" in str(refusal)
