# SPDX-License-Identifier: Apache-2.0
"""Pieces of work for the model, their order, and how each comes to its one result. No ROS in it.

A job tells its end by a callback. Its work may fail in any way, also for lack of memory: that costs
it alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from svd_vlm_ros.engine import SceneEngine

Result = TypeVar("Result")


class Priority(IntEnum):
    """Lower goes first; a job also interrupts one of lower rank that is under way."""

    CONTROL = 0  # the node's own changes of the engine
    QUESTION = 1  # service and action
    FACT = 2  # standing questions
    DESCRIPTION = 3


class QueueFullError(Exception):
    """As many jobs wait as may."""


class Job(Generic[Result]):
    """One piece of work for the model and its result, which is set once, by whoever comes first.

    `work(engine, jobs)` runs on the inference thread and gives one result a job; all `jobs` have
    the same `key()`, and without a key there is one. `ready()` is asked before; a job that is not
    ready (its picture has not come) lets others go first. `failed(error)` makes a result of an
    exception. `on_end(result)` is called once, on the thread that ended the job. `seconds`: time
    from now until the engine is to stop. `patience()`: seconds that it lets questions go first,
    asked again and again, since what waits may become urgent. `subject` is for `work` alone.
    """

    def __init__(
        self,
        work: Callable[[SceneEngine, Sequence[Job[Result]]], Sequence[Result]],
        *,
        priority: Priority,
        failed: Callable[[BaseException], Result],
        on_end: Callable[[Result], None],
        ready: Callable[[], bool] = lambda: True,
        key: Callable[[], Hashable] = lambda: None,
        seconds: float = float("inf"),
        patience: Callable[[], float] = lambda: float("inf"),
        subject: Any = None,
    ) -> None:
        self.work = work
        self.priority = priority
        self.ready = ready
        self.key = key
        self.subject = subject
        self.submitted = time.monotonic()
        self.deadline = self.submitted + seconds
        self.patience = patience
        self.began: float | None = None  # time.monotonic()
        self.result: Result | None = None
        # Set by the thread: a better job waits.
        self.interrupted: Callable[[], bool] = lambda: False
        self._failed = failed
        self._on_end = on_end
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._canceled = False

    @property
    def ended(self) -> bool:
        """Whether it has its result."""
        return self._ended.is_set()

    @property
    def rank(self) -> Priority:
        """Its priority; once its patience is over, that of a question that came when it did."""
        if time.monotonic() - self.submitted > self.patience():
            return min(self.priority, Priority.QUESTION)
        return self.priority

    @property
    def canceled(self) -> bool:
        """Whether `cancel` was called."""
        return self._canceled

    def end(self, result: Result) -> bool:
        """Set the result; False where the job had one already."""
        with self._lock:
            if self._ended.is_set():
                return False
            self.result = result
            self._ended.set()
        self._on_end(result)
        return True

    def fail(self, error: BaseException) -> None:
        """End with what `failed` makes of an exception."""
        if not self.ended:
            self.end(self._failed(error))

    def cancel(self) -> None:
        """Ask the work to end soon; it ends with what it has."""
        self._canceled = True

    def should_stop(self) -> str | None:
        """Why the engine shall not make another token, or None. Called before every token."""
        if self._canceled or self.ended:
            return "canceled"
        if time.monotonic() >= self.deadline:
            return "timeout"
        return "interrupted" if self.interrupted() else None


def run(jobs: Sequence[Job], engine: SceneEngine) -> None:
    """Do the work of jobs that share it; each ends with its result, or as failed."""
    jobs = [job for job in jobs if not job.ended]
    if not jobs:
        return
    now = time.monotonic()
    for job in jobs:
        job.began = now
    try:
        results = jobs[0].work(engine, jobs)
        for job, result in zip(jobs, results, strict=True):
            job.end(result)
    except BaseException as error:  # whatever it is, the next job must have its turn
        for job in jobs:
            job.fail(error)
