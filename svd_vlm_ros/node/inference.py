# SPDX-License-Identifier: Apache-2.0
"""The one thread that owns the model: loads it, works off jobs in order of priority, frees it.

Nothing of ROS here. Other threads submit jobs and go on; a job tells its end by a callback. A job's
work may fail in any way, also for lack of memory: that costs this job alone.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from svd_vlm_ros.engine import EngineInfo, SceneEngine

Result = TypeVar("Result")
_WAIT_FOR_PICTURE = 0.02  # s between two looks whether a waiting job's picture has come


class Priority(IntEnum):
    """Lower goes first; a job also interrupts one of lower rank that is under way."""

    QUESTION = 0
    DESCRIPTION = 1


class QueueFullError(Exception):
    """As many jobs wait as may."""


class Job(Generic[Result]):
    """One piece of work for the model and its result, which is set once, by whoever comes first.

    `work(engine, job)` runs on the inference thread. `ready()` is asked before; a job that is not
    ready (its picture has not come) lets others go first. `failed(error)` makes a result of an
    exception. `on_end(result)` is called once, on the thread that ended the job. `seconds`: time
    from now until the engine is to stop.
    """

    def __init__(
        self,
        work: Callable[[SceneEngine, Job[Result]], Result],
        *,
        priority: Priority,
        failed: Callable[[BaseException], Result],
        on_end: Callable[[Result], None],
        ready: Callable[[], bool] = lambda: True,
        seconds: float = float("inf"),
    ) -> None:
        self.work = work
        self.priority = priority
        self.ready = ready
        self.submitted = time.monotonic()
        self.deadline = self.submitted + seconds
        self.began: float | None = None  # time.monotonic()
        self.result: Result | None = None
        self.interrupted: Callable[[], bool] = lambda: (
            False
        )  # set by the thread: a better job waits
        self._failed = failed
        self._on_end = on_end
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._canceled = False

    @property
    def ended(self) -> bool:
        """Whether it has its result."""
        return self._ended.is_set()

    def end(self, result: Result) -> bool:
        """Set the result; False where the job had one already."""
        with self._lock:
            if self._ended.is_set():
                return False
            self.result = result
            self._ended.set()
        self._on_end(result)
        return True

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

    def run(self, engine: SceneEngine) -> None:
        """Do the work and end with its result, or with what `failed` makes of its exception."""
        if self.ended:
            return
        self.began = time.monotonic()
        try:
            result = self.work(engine, self)
        except BaseException as error:  # whatever it is, the next job must have its turn
            result = self._failed(error)
        self.end(result)


class InferenceThread:
    """Loads an engine with `load()` on a thread of its own and serves jobs until it is stopped.

    `wait_loaded` tells when loading has ended: with `info` of the engine, or with `load_error`.
    `stop` asks for the end: a job under way stops at its next token; what Python cannot interrupt
    (loading, the vision tower) is let run to its end, and the engine is closed after it.
    """

    def __init__(self, load: Callable[[], SceneEngine]) -> None:
        self.load_error: BaseException | None = None
        self.info: EngineInfo | None = None
        self._load = load
        self._loaded = threading.Event()
        self._condition = threading.Condition()
        self._waiting: list[tuple[int, int, Job]] = []  # priority, order of arrival
        self._order = itertools.count()
        self._current: Job | None = None
        self._stopping = False
        # A daemon: a load that takes minutes must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def thread_id(self) -> int | None:
        """`threading.get_ident()` of the thread."""
        return self._thread.ident

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    @property
    def current(self) -> Job | None:
        """The job under way."""
        return self._current

    def wait_loaded(self, seconds: float) -> bool:
        """Wait until loading has ended, well or not; False where it goes on after `seconds`."""
        return self._loaded.wait(seconds)

    def submit(self, job: Job, limit: int) -> None:
        """Queue a job. Raises `QueueFullError` where `limit` jobs of its priority wait already."""
        with self._condition:
            if self.waiting(job.priority) >= limit:  # the condition's lock is reentrant
                raise QueueFullError
            self._waiting.append((job.priority, next(self._order), job))
            self._condition.notify()

    def waiting(self, priority: Priority | None = None) -> int:
        """How many jobs wait, of one priority or of all."""
        with self._condition:
            ranks = [rank for rank, _, job in self._waiting if not job.ended]
        return len(ranks) if priority is None else ranks.count(priority)

    def drain(self) -> list[Job]:
        """Take all jobs out of the queue, for the caller to end; ask the one under way to stop."""
        with self._condition:
            jobs = [job for _, _, job in self._waiting]
            self._waiting.clear()
            if self._current is not None:
                self._current.cancel()
        return jobs

    def stop(self, seconds: float) -> bool:
        """Ask the thread to end and wait; whether it has ended. Drain the queue before."""
        with self._condition:
            self._stopping = True
            if self._current is not None:
                self._current.cancel()
            self._condition.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            engine = self._load()
            self.info = engine.info
        except BaseException as error:  # a SystemExit of a library ends loading, not the process
            self.load_error = error
            return
        finally:
            self._loaded.set()
        try:
            while (job := self._next()) is not None:
                job.run(engine)
                with self._condition:
                    self._current = None
                del job  # its message and result must not outlive it
        finally:
            engine.close()

    def _next(self) -> Job | None:
        """Wait for the first job that is ready; None: stop."""
        with self._condition:
            while not self._stopping:
                self._waiting = [entry for entry in self._waiting if not entry[2].ended]
                ready = [entry for entry in self._waiting if entry[2].ready()]
                if ready:
                    first = min(ready, key=lambda entry: entry[:2])
                    self._waiting.remove(first)
                    self._current = job = first[2]
                    job.interrupted = functools.partial(self._better_waits, job.priority)
                    return job
                self._condition.wait(_WAIT_FOR_PICTURE if self._waiting else None)
            return None

    def _better_waits(self, rank: Priority) -> bool:
        with self._condition:
            return any(
                other < rank and not job.ended and job.ready() for other, _, job in self._waiting
            )
