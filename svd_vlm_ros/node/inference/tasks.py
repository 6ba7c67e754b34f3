# SPDX-License-Identifier: Apache-2.0
"""A piece of work for the model, and how it comes to its one result. No ROS in it.

A task's work may fail in any way, also for lack of memory: that costs it alone.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from svd_vlm_ros.engine import SceneEngine
    from svd_vlm_ros.node.cameras.frames import Frame
    from svd_vlm_ros.node.inference.replies import RequestError

Result = TypeVar("Result")


class Priority(IntEnum):
    """Lower goes first; a task also interrupts one of lower rank that is under way."""

    CONTROL = 0  # the node's own changes of the engine
    QUESTION = 1  # service and action
    FACT = 2  # standing questions
    DESCRIPTION = 3


class Queue(Protocol):
    """Where a task waits; see `queue.TaskQueue`."""

    def discard(self, task: Task[Any]) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Turn:
    """What a task begins with, judged once: the model is free for it at `at`, `time.monotonic()`.

    `frame` is the image that it is about, `image_age` in seconds at that moment (seconds of a
    simulated clock are not those of this computer); or `refusal` says why there is none. Tasks with
    the same `key` can be done together; None: this one is done alone.
    """

    at: float
    frame: Frame | None = None
    image_age: float = 0.0
    refusal: RequestError | None = None
    key: Hashable = None


class Task(ABC, Generic[Result]):
    """One piece of work for the model and its result, which is set once, by whoever comes first.

    Attributes:
        priority: its place in the queue; see `rank`.
        arrived: when it was made, in `time.monotonic()`.
        deadline: when the engine is to stop, in `time.monotonic()`.
        on_end: called once with the result, on the thread that ended the task.
        turn: what it began with, None while it waits; the queue sets it.
        interrupted: whether a better task waits; the queue sets it.
    """

    def __init__(self, priority: Priority, on_end: Callable[[Result], None] | None = None) -> None:
        self.priority = priority
        self.arrived = time.monotonic()
        self.deadline = float("inf")
        self.on_end = on_end
        self.turn: Turn | None = None
        self.result: Result | None = None
        self.ended = self.canceled = False
        self.interrupted: Callable[[], bool] = lambda: False
        self.queue: Queue | None = None
        self._lock = threading.Lock()

    @abstractmethod
    def work(self, engine: SceneEngine, batch: Sequence[Task[Result]]) -> Sequence[Result]:
        """Do the work of all tasks of a batch, this one the first: one result each."""

    @abstractmethod
    def failure(self, error: BaseException) -> Result:
        """The result that an exception makes."""

    def turn_at(self, now: float) -> Turn | None:
        """What the task would begin with now; None: not yet, others go first. Changes nothing."""
        return Turn(now)

    @property
    def rank(self) -> Priority:
        """Its priority at this moment."""
        return self.priority

    def end(self, result: Result) -> bool:
        """Set the result; False if the task had one already."""
        with self._lock:
            if self.ended:
                return False
            self.result = result
            self.ended = True
        if self.queue is not None:
            self.queue.discard(self)
        if self.on_end is not None:
            self.on_end(result)
        return True

    def fail(self, error: BaseException) -> None:
        """End with what `failure` makes of an exception."""
        if not self.ended:
            self.end(self.failure(error))

    def cancel(self) -> None:
        """Ask the work to end soon; it ends with what it has."""
        self.canceled = True

    def should_stop(self) -> str | None:
        """Why the engine shall not make another token, or None. Called before every token."""
        if self.canceled or self.ended:
            return "canceled"
        if time.monotonic() >= self.deadline:
            return "timeout"
        return "interrupted" if self.interrupted() else None


def run(batch: Sequence[Task[Result]], engine: SceneEngine) -> None:
    """Do the work of tasks that share it; each ends with its result, or as failed."""
    try:
        results = batch[0].work(engine, batch)
        for task, result in zip(batch, results, strict=True):
            task.end(result)
    except BaseException as error:  # whatever it is, the next task must have its turn
        for task in batch:
            task.fail(error)
