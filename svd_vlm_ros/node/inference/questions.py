# SPDX-License-Identifier: Apache-2.0
"""What a request asks for, and whether it can be asked. No ROS in it.

`freshness` says which frame a question may be answered with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.facts import MAX_CHOICES
from svd_vlm_ros.node.cameras.frames import NANOSECONDS
from svd_vlm_ros.node.inference.replies import RequestError, Status
from svd_vlm_ros.node.parameters.settings import MAX_NEW_TOKENS, MAX_SECONDS, Limits
from svd_vlm_ros.texts import check_text


class Stamp(Protocol):
    """builtin_interfaces/Time."""

    sec: int
    nanosec: int


class AskMessage(Protocol):
    """AskScene's request and StreamAnswer's goal: they have the same fields."""

    question: str
    camera: str
    choices: Sequence[str]
    visual_tokens: int
    max_new_tokens: int
    not_before: Stamp
    max_image_age: float
    timeout: float


@dataclass(frozen=True)
class Question:
    """What is asked, checked.

    `prompt` None: describe the image in the engine's own words. `visual_tokens` None: the node's
    budget. `not_before` is a ROS time in nanoseconds, 0: any. `max_image_age` in seconds, infinity:
    any. `timeout` in seconds from the request's arrival. `waits`: for a frame that is new enough,
    if there is none; else the request is refused at once.
    """

    prompt: str | None
    camera: str
    choices: tuple[str, ...] = ()
    visual_tokens: int | None = None
    max_new_tokens: int = 64
    not_before: int = 0
    max_image_age: float = math.inf
    timeout: float = 30.0
    waits: bool = False
    describe: bool = False


def check_request(message: AskMessage, limits: Limits) -> Question:
    """The question of an AskScene request. Raises `RequestError` BAD_REQUEST."""
    text = message.question
    if not text.strip():
        raise _bad("The question is empty: ask something in plain words.")
    if len(text) > limits.max_question_length:
        raise _bad(
            f"The question has {len(text)} characters, but {limits.max_question_length} is the "
            "most: shorten it, or raise the parameter max_question_length."
        )
    tokens = message.max_new_tokens or limits.max_new_tokens
    if tokens > MAX_NEW_TOKENS:
        raise _bad(f"max_new_tokens is {tokens}: ask for {MAX_NEW_TOKENS} at most.")
    try:  # the engine's own rule of what can be read
        prompt = check_text(text, "question")
        choices = _checked(message.choices, limits) if message.choices else ()
    except UserError as error:
        raise _bad(str(error)) from error
    stamp = message.not_before
    age, timeout = message.max_image_age, message.timeout
    return Question(
        prompt=prompt,
        camera=_known(message.camera, limits.cameras) if message.camera else limits.cameras[0],
        choices=choices,
        visual_tokens=message.visual_tokens or None,
        max_new_tokens=tokens,
        not_before=max(stamp.sec * NANOSECONDS + stamp.nanosec, 0),
        max_image_age=_seconds("max_image_age", age) if age else limits.max_image_age or math.inf,
        timeout=_seconds("timeout", timeout) if timeout else limits.request_timeout,
        waits=bool(stamp.sec or stamp.nanosec or age),
    )


def shown(name: str) -> str:
    """A name that somebody sent, as it may stand in a sentence and in a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:60])


def _known(name: str, cameras: Sequence[str]) -> str:
    if name not in cameras:
        raise _bad(f"There is no camera '{shown(name)}': choose one of {', '.join(cameras)}.")
    return name


def _checked(choices: Sequence[str], limits: Limits) -> tuple[str, ...]:
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise _bad(
            f"There are {len(choices)} choices: give 2 to {MAX_CHOICES}, or none for a free answer."
        )
    if not all(choice.strip() for choice in choices):
        raise _bad("One of the choices is empty: give each choice a text.")
    longest = limits.max_question_length
    if sum(len(choice.strip()) for choice in choices) > longest:
        raise _bad(f"The choices have more than {longest} characters together: shorten them.")
    checked = tuple(check_text(choice, "choice") for choice in choices)
    if len(set(checked)) < len(checked):
        raise _bad("Two of the choices are the same: give each choice once.")
    return checked


def _seconds(name: str, wanted: float) -> float:
    """A duration in seconds."""
    if not 0.0 < wanted <= MAX_SECONDS:  # also false for NaN
        raise _bad(
            f"{name} is {wanted}: give seconds between 0 and {MAX_SECONDS:.0f}; 0 is the node's "
            "setting."
        )
    return wanted


def _bad(sentence: str) -> RequestError:
    return RequestError(Status.BAD_REQUEST, sentence)
