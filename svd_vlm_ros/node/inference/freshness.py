# SPDX-License-Identifier: Apache-2.0
"""Whether a frame is new enough for a question, and what to say if none was. No ROS in it.

image_age     how old an image is
choose_frame  a turn with the newest frame; None: a newer one is worth waiting for
late_refusal  why a request whose time is over was not answered
"""

from __future__ import annotations

from svd_vlm_ros.node.cameras.frames import NANOSECONDS, Frame
from svd_vlm_ros.node.inference.questions import Question
from svd_vlm_ros.node.inference.replies import RequestError, Status
from svd_vlm_ros.node.inference.tasks import Turn


def clock_went_back(frame: Frame, ros_now: int) -> bool:
    """Whether ROS time was set back since the frame arrived, as when a bag begins anew."""
    return ros_now < frame.clock


def image_age(frame: Frame, ros_now: int, now: float) -> float:
    """Seconds since the image was taken by its stamp, and never less than since it arrived.

    The latter alone if it has no stamp, or one of a time that was before the clock was set back.
    So a stamp ahead of the clock, or a clock that stands still, makes no image fresh for ever.
    `ros_now` in nanoseconds, `now` in `time.monotonic()`.
    """
    arrived = max(now - frame.arrival, 0.0)
    if frame.stamp and ros_now >= frame.clock:
        return max((ros_now - frame.stamp) / NANOSECONDS, arrived)
    return arrived


def _in_words(age: float, frame: Frame, now: float) -> str:
    """How old an image is, by its stamp or by its arrival, and how far its stamp is ahead."""
    arrived = max(now - frame.arrival, 0.0)
    if age > arrived:
        return f"{age:.1f} s old by its stamp (it arrived {arrived:.1f} s ago)"
    ahead = (frame.stamp - frame.clock) / NANOSECONDS
    stamp = f" (its stamp was {ahead:.1f} s ahead of the clock)" if ahead > 0.0 else ""
    return f"{age:.1f} s old by its arrival{stamp}"


def choose_frame(
    question: Question, frame: Frame | None, topic: str, ros_now: int, now: float
) -> Turn | None:
    """A turn with the newest frame of the question's camera if it may be used; None: wait.

    A question that `waits` waits for a frame, for another one none is waited for. Raises
    `RequestError`: NO_IMAGE if none has come, STALE_IMAGE if the newest is older than
    `max_image_age`.
    """
    if frame is None:
        if question.waits:
            return None
        raise RequestError(
            Status.NO_IMAGE,
            f"Camera '{question.camera}' has sent no image on {topic} yet: check that it runs "
            "and publishes there.",
        )
    if question.not_before and (
        frame.taken < question.not_before or clock_went_back(frame, ros_now)
    ):
        return None
    age = image_age(frame, ros_now, now)
    if age > question.max_image_age:
        if question.waits:
            return None
        raise RequestError(
            Status.STALE_IMAGE,
            f"The newest image of camera '{question.camera}' is {_in_words(age, frame, now)}, but "
            f"{question.max_image_age:g} s is the most: check the camera and its clock, or allow "
            "more by max_image_age.",
        )
    key = question.camera, frame.number, question.visual_tokens
    return Turn(now, frame, age, key=key)


def late_refusal(
    question: Question, frame: Frame | None, topic: str, begun: bool, ros_now: int, now: float
) -> RequestError:
    """Why a request whose time is over was not answered. `begun`: the model was at work on it."""
    after = f"within {question.timeout:g} s"
    name = f"Camera '{question.camera}'"
    if begun:
        return incomplete(question)
    if question.waits and frame is None:
        return RequestError(Status.NO_IMAGE, f"{name} sent no image on {topic} {after}: check it.")
    age = image_age(frame, ros_now, now) if frame else 0.0
    if question.not_before and frame is not None:
        behind = (question.not_before - frame.taken) / NANOSECONDS
        if behind > 0.0 or clock_went_back(frame, ros_now):
            older = (
                f"is {behind:.3f} s older" if behind > 0.0 else "came before the clock went back"
            )
            return RequestError(
                Status.STALE_IMAGE,
                f"{name} sent no image from not_before or later {after}; the newest {older}: "
                "check the camera and its clock.",
            )
    if question.waits and age > question.max_image_age:
        return RequestError(
            Status.STALE_IMAGE,
            f"{name} sent no image that is at most {question.max_image_age:g} s old by its stamp "
            f"{after}; the newest is {age:.1f} s old: check the camera and its clock.",
        )
    return RequestError(
        Status.TIMEOUT,
        f"The model was busy with other requests and did not begin {after}: allow a longer "
        "timeout, or ask later.",
    )


def incomplete(question: Question) -> RequestError:
    """Why an answer was cut off at its deadline."""
    return RequestError(
        Status.TIMEOUT,
        f"The answer was not complete within {question.timeout:g} s: allow a longer timeout, or "
        "ask for fewer tokens.",
    )
