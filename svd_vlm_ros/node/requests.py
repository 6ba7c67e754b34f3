# SPDX-License-Identifier: Apache-2.0
"""What a request asks for, and whether it can be served. No ROS in it.

    Question      a checked request, immutable
    Frame         one picture of a camera as it arrived, immutable
    Reply         what a request gets: an answer, or a status and a sentence
    RequestError  raised where a request ends without an answer; becomes a Reply

`freshness` says which picture a question may be answered with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from svd_vlm_ros.facts import MAX_CHOICES

if TYPE_CHECKING:
    from svd_vlm_ros.engine import Answer

MAX_NEW_TOKENS = 1024
MAX_SECONDS = 86_400.0  # longest timeout and image age that can be asked for; one day
NANOSECONDS = 1_000_000_000
# Control characters but tab and line breaks, and halves of surrogate pairs.
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Status(IntEnum):
    """The statuses of AskScene's response, with the same numbers."""

    OK = 0
    NO_IMAGE = 1
    STALE_IMAGE = 2
    BAD_REQUEST = 3
    BUSY = 4
    TIMEOUT = 5
    CANCELED = 6
    NOT_ACTIVE = 7
    ERROR = 8


class RequestError(Exception):
    """A request ends without an answer; its text is one sentence: what went wrong, what to do."""

    def __init__(self, status: Status, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """The node's settings that a request is measured with; seconds, tokens, characters."""

    cameras: tuple[str, ...]
    max_new_tokens: int = 64
    max_image_age: float = 0.0
    request_timeout: float = 30.0
    max_question_length: int = 2000


@dataclass(frozen=True)
class Question:
    """A checked request.

    `prompt` None: describe the picture in the engine's own words. `visual_tokens` None: the node's
    budget. `not_before` is a ROS time in nanoseconds, 0: any. `max_image_age` in seconds, infinity:
    any. `timeout` in seconds from the request's arrival. `waits`: for a picture that is new enough,
    where there is none; else it is refused at once.
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


@dataclass(frozen=True)
class Frame:
    """One picture as it arrived: the message itself, and when that was.

    `arrival` in `time.monotonic()`, `clock` in ROS time, nanoseconds; `number` counts the camera's
    pictures.
    """

    message: Any
    arrival: float
    number: int
    clock: int = 0

    @property
    def stamp(self) -> int:
        """When the picture was taken, ROS time in nanoseconds; 0 where its driver does not say."""
        stamp = self.message.header.stamp
        return stamp.sec * NANOSECONDS + stamp.nanosec

    @property
    def taken(self) -> int:
        """The stamp, or the arrival where the stamp lies ahead of it: no image is of later."""
        return min(self.stamp, self.clock) if self.clock else self.stamp


@dataclass(frozen=True)
class Stats:
    """What one answer took, in seconds and tokens, with InferenceStats' names and meanings."""

    model: str = ""
    precision: str = ""
    selector: str = ""
    visual_tokens_kept: int = 0
    visual_tokens_total: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    image_age: float = 0.0
    queue_seconds: float = 0.0
    encode_seconds: float = 0.0
    select_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    time_to_first_token: float = 0.0
    scene_reused: bool = False
    peak_device_memory: int = 0


@dataclass(frozen=True)
class Reply:
    """How a request ended.

    `frame` is the picture that the model looked at, None where it looked at none. `facts` has the
    probabilities of each standing question's choices, () where it could not be asked. `repeated`: a
    description that was made before, since the newer picture `compared` shows nothing new. `detail`
    is for the log alone.
    """

    status: Status
    sentence: str = ""
    camera: str = ""
    frame: Frame | None = None
    answer: Answer | None = None
    stats: Stats = field(default_factory=Stats)
    facts: tuple[tuple[float, ...], ...] = ()
    repeated: bool = False
    compared: Frame | None = None
    detail: str = ""


def check_request(request: Any, limits: Limits) -> Question:
    """The checked form of an AskScene request. Raises `RequestError` BAD_REQUEST."""
    text = request.question
    if not text.strip():
        raise _bad("The question is empty: ask something in plain words.")
    if len(text) > limits.max_question_length:
        raise _bad(
            f"The question has {len(text)} characters, but {limits.max_question_length} is the "
            "most: shorten it, or raise the parameter max_question_length."
        )
    _check_readable("question", text)
    if "<image>" in text:
        raise _bad(
            "The question holds '<image>', which stands for the picture itself: leave it out."
        )
    tokens = request.max_new_tokens or limits.max_new_tokens
    if tokens > MAX_NEW_TOKENS:
        raise _bad(f"max_new_tokens is {tokens}: ask for {MAX_NEW_TOKENS} at most.")
    stamp = request.not_before
    return Question(
        prompt=text.strip(),
        camera=known_camera(request.camera, limits.cameras),
        choices=_check_choices(request.choices, limits.max_question_length),
        visual_tokens=request.visual_tokens or None,
        max_new_tokens=tokens,
        not_before=max(stamp.sec * NANOSECONDS + stamp.nanosec, 0),
        max_image_age=_seconds("max_image_age", request.max_image_age, limits.max_image_age)
        or math.inf,
        timeout=_seconds("timeout", request.timeout, limits.request_timeout),
        waits=bool(stamp.sec or stamp.nanosec or request.max_image_age),
    )


def known_camera(name: str, cameras: Sequence[str]) -> str:
    """The camera meant, the first where none is named. Raises `RequestError` BAD_REQUEST."""
    if not name:
        return cameras[0]
    if name not in cameras:
        raise _bad(f"There is no camera '{shown(name)}': choose one of {', '.join(cameras)}.")
    return name


def shown(name: str) -> str:
    """A name that somebody sent, as it may stand in a sentence and in a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:60])


def _check_choices(choices: Sequence[str], longest: int) -> tuple[str, ...]:
    stripped = tuple(choice.strip() for choice in choices)
    if not stripped:
        return ()
    if not 2 <= len(stripped) <= MAX_CHOICES:
        raise _bad(
            f"There are {len(stripped)} choices: give 2 to {MAX_CHOICES}, or none for a free "
            "answer."
        )
    for choice in stripped:
        _check_readable("choice", choice)
    if not all(stripped):
        raise _bad("One of the choices is empty: give each choice a text.")
    if len(set(stripped)) < len(stripped):
        raise _bad("Two of the choices are the same: give each choice once.")
    if sum(map(len, stripped)) > longest:
        raise _bad(f"The choices have more than {longest} characters together: shorten them.")
    return stripped


def _check_readable(what: str, text: str) -> None:
    if found := _UNREADABLE.search(text):
        raise _bad(f"The {what} contains the control character U+{ord(found[0]):04X}: remove it.")


def _seconds(name: str, asked: float, setting: float) -> float:
    """A duration in seconds; 0 asks for the node's setting."""
    if asked == 0.0:
        return setting
    if not 0.0 < asked <= MAX_SECONDS:  # also false for NaN
        raise _bad(
            f"{name} is {asked}: give seconds between 0 and {MAX_SECONDS:.0f}; 0 is the node's "
            "setting."
        )
    return asked


def _bad(sentence: str) -> RequestError:
    return RequestError(Status.BAD_REQUEST, sentence)
