# SPDX-License-Identifier: Apache-2.0
"""The replies to requests that end without an answer, and what is done for those that follow."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from svd_vlm_ros.node.requests import Frame, Question, Reply, RequestError, Status

if TYPE_CHECKING:
    from svd_vlm_ros.node.answering import Asked, Tally
    from svd_vlm_ros.node.scenes import SceneCache

OUT_OF_MEMORY_LIMIT = 3  # in a row; then the token budget is lowered
DEACTIVATED = "The node was deactivated or shut down while it answered: activate it and ask again."
GIVEN_UP = "The goal was canceled."


class Failures:
    """What the engine could not do; `on_memory()` hears of several times out of memory in a row."""

    def __init__(self, scenes: SceneCache, tally: Tally, on_memory: Callable[[], None]) -> None:
        self._scenes = scenes
        self._tally = tally
        self._on_memory = on_memory
        self._lock = threading.Lock()
        self._in_a_row = 0  # for lack of memory

    def none(self) -> None:
        """A request went well."""
        self._in_a_row = 0

    def reply(self, error: BaseException, question: Question, frame: Frame | None = None) -> Reply:
        """The reply to a question that the engine failed on; frees memory for the next one."""
        detail = "".join(traceback.format_exception(error))
        traceback.clear_frames(error.__traceback__)  # their tensors would stay allocated
        self._scenes.clear()
        if not out_of_memory(error):
            reason = (str(error).splitlines() or [""])[0][:200]
            sentence = (
                f"The model failed on this request ({type(error).__name__}: {reason}): try again, "
                "and see the node's log if it happens again."
            )
            return Reply(Status.ERROR, sentence, question.camera, frame, detail=detail)
        empty_device_cache()
        sentence = (
            "The device ran out of memory: ask with fewer visual_tokens, or load the model in a "
            "smaller precision such as int4."
        )
        with self._lock:
            self._tally.out_of_memory += 1
            self._in_a_row += 1
            enough = self._in_a_row >= OUT_OF_MEMORY_LIMIT
            if enough:
                self._in_a_row = 0
        if enough:
            self._on_memory()
        return Reply(Status.ERROR, sentence, question.camera, frame, detail=detail)


def refused(refusal: RequestError, camera: str = "", frame: Frame | None = None) -> Reply:
    """The reply that a refusal becomes."""
    return Reply(refusal.status, str(refusal), camera, frame)


def canceled(asked: Asked) -> Reply:
    """The reply to a question that was canceled, by whoever asked it or by the node."""
    sentence = GIVEN_UP if asked.given_up else DEACTIVATED
    return Reply(Status.CANCELED, sentence, asked.question.camera)


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the computer had no memory left."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def empty_device_cache() -> None:
    """Give memory that torch keeps for later back to the device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
