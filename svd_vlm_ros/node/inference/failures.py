# SPDX-License-Identifier: Apache-2.0
"""What the engine cannot do: the reply, and what is done for the requests that follow."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from svd_vlm_ros.node.inference.replies import Reply, RequestError, Status

if TYPE_CHECKING:
    from svd_vlm_ros.engine import EngineInfo
    from svd_vlm_ros.node.cameras.frames import Frame
    from svd_vlm_ros.node.inference.questions import Question

OUT_OF_MEMORY_LIMIT = 3  # in a row; then the token budget is lowered


class Failures:
    """What the engine could not do.

    `free()` lets go of what the node holds of the engine's memory; `on_memory()` hears of several
    times out of memory in a row. `out_of_memory` counts all of them.
    """

    def __init__(self, free: Callable[[], None], on_memory: Callable[[], None]) -> None:
        self.out_of_memory = 0
        self._free = free
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
        self._free()
        if not is_out_of_memory(error):
            sentence = (
                f"The model failed on this request ({type(error).__name__}: {first_line(error)}): "
                "try again, and see the node's log if it happens again."
            )
            return Reply(Status.ERROR, sentence, question.camera, frame, detail=detail)
        empty_device_cache()
        sentence = (
            "The device ran out of memory: ask with fewer visual_tokens, or load the model in a "
            "smaller precision such as int4."
        )
        with self._lock:
            self.out_of_memory += 1
            self._in_a_row += 1
            enough = self._in_a_row >= OUT_OF_MEMORY_LIMIT
            if enough:
                self._in_a_row = 0
        if enough:
            self._on_memory()
        return Reply(Status.ERROR, sentence, question.camera, frame, detail=detail)


def random_model_refusal(engine: EngineInfo | None, allowed: bool) -> RequestError | None:
    """Why a model with random weights does not answer; None: it may, or has none."""
    if allowed or engine is None or not engine.random_weights:
        return None
    return RequestError(
        Status.ERROR,
        f"Model '{engine.model}' has random weights, so its answers mean nothing: load a trained "
        "one such as scout, or set allow_random_model to get them anyway.",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the computer had no memory left."""
    words = str(error).lower()
    # The latter is onnxruntime's.
    said = "out of memory" in words or "failed to allocate memory" in words
    return said or isinstance(error, MemoryError)


def first_line(error: BaseException) -> str:
    """The beginning of what an exception says."""
    return (str(error).splitlines() or [""])[0][:200]


def empty_device_cache() -> None:
    """Give memory that torch keeps for later back to the device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
