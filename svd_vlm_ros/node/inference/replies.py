# SPDX-License-Identifier: Apache-2.0
"""How a request ends: with an answer, or with a status and a sentence. No ROS in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svd_vlm_ros.engine import Answer
    from svd_vlm_ros.node.cameras.frames import Frame


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

    `frame` is the image that the model looked at, None if it looked at none. `facts` has the
    probabilities of each standing question's choices, () if it could not be asked. `repeated`: a
    description that was made before, since the newer frame `compared` shows nothing new. `detail`
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


def refused(refusal: RequestError, camera: str = "", frame: Frame | None = None) -> Reply:
    """The reply that a refusal becomes."""
    return Reply(refusal.status, str(refusal), camera, frame)
