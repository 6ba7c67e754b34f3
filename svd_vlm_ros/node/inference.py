# SPDX-License-Identifier: Apache-2.0
"""The one thread that owns the model: loads it, works off jobs in order of priority, frees it.

Nothing of ROS here. Other threads submit jobs and go on. Jobs of one priority are done in their
order of arrival; those that stand next to each other and share their key (the same picture and
budget) are done together. Where the thread itself fails, it begins anew.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from svd_vlm_ros.node.jobs import Job, Priority, QueueFullError, run

if TYPE_CHECKING:
    from svd_vlm_ros.engine import EngineInfo, SceneEngine

_WAIT_FOR_PICTURE = 0.02  # s between two looks whether a waiting job's picture has come
_BEFORE_RESTART = 0.1  # s, so that a thread that fails at once does not fail all the time


class InferenceThread:
    """Loads an engine with `load()` on a thread of its own and serves jobs until it is stopped.

    `wait_loaded` tells when loading has ended: with `info` of the engine, or with `load_error`.
    `stop` asks for the end: a job under way stops at its next token; what Python cannot interrupt
    (loading, the vision tower) is let run to its end, and the engine is closed after it.
    `on_crash(error)` is called when the thread has failed outside of a job, before it goes on.
    """

    def __init__(
        self,
        load: Callable[[], SceneEngine],
        on_crash: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.load_error: BaseException | None = None
        self.info: EngineInfo | None = None
        self.batch_size = 1  # most jobs that are done together
        self.restarts = 0
        self._load = load
        self._on_crash = on_crash
        self._engine: SceneEngine | None = None
        self._loaded = threading.Event()
        self._condition = threading.Condition()
        self._waiting: list[tuple[int, int, Job]] = []  # priority, order of arrival
        self._order = itertools.count()
        self._current: list[Job] = []
        self._stopping = False
        self._start(self._load_and_serve)

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
        """The job under way, the first one where several are."""
        current = self._current
        return current[0] if current else None

    def wait_loaded(self, seconds: float) -> bool:
        """Wait until loading has ended, well or not; False where it goes on after `seconds`."""
        return self._loaded.wait(seconds)

    def submit(self, job: Job, limit: int) -> None:
        """Queue a job. Raises `QueueFullError` where `limit` jobs of its priority wait already."""
        self.revive()
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
        """Take all jobs out of the queue, for the caller to end; ask those under way to stop."""
        with self._condition:
            jobs = [job for _, _, job in self._waiting]
            self._waiting.clear()
            for job in self._current:
                job.cancel()
        return jobs

    def stop(self, seconds: float) -> bool:
        """Ask the thread to end and wait; whether it has ended. Drain the queue before."""
        self.revive()  # a thread that was killed could not close the engine
        with self._condition:
            self._stopping = True
            for job in self._current:
                job.cancel()
            self._condition.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def revive(self) -> None:
        """Put another thread in the place of one that has ended within `_recover`."""
        with self._condition:
            if self._engine is None or self._stopping or self._thread.is_alive():
                return
            error = RuntimeError("the inference thread was killed")
            self._start(functools.partial(self._serve_after, error))

    def _start(self, target: Callable[[], None]) -> None:
        # A daemon: a load that takes minutes must not keep the process from ending.
        self._thread = threading.Thread(target=target, name="inference", daemon=True)
        self._thread.start()

    def _load_and_serve(self) -> None:
        try:
            self._engine = self._load()
            self.info = self._engine.info
        except BaseException as error:  # a SystemExit of a library ends loading, not the process
            self.load_error = error
            return
        finally:
            self._loaded.set()
        self._serve()

    def _serve(self) -> None:
        """Work until the end is asked for, again after each failure of the thread itself."""
        engine = self._engine
        assert engine is not None
        while True:
            try:
                self._work(engine)
                break
            except BaseException as error:  # jobs fail in `run`: this is something else
                self._recover(error)
        self._engine = None
        engine.close()

    def _work(self, engine: SceneEngine) -> None:
        while jobs := self._next():
            run(jobs, engine)
            self.info = engine.info
            with self._condition:
                self._current = []
            del jobs  # their messages and results must not outlive them

    def _recover(self, error: BaseException) -> None:
        """Account for a failure; whatever was under way has failed.

        On the same thread, which nothing else than an exception can end: another one would have
        libraries allocate their buffers once more, and some never free those of a thread.
        """
        with self._condition:
            failed, self._current = self._current, []
            self.restarts += 1
        for job in failed:
            job.fail(error)
        self._on_crash(error)
        time.sleep(_BEFORE_RESTART)

    def _serve_after(self, error: BaseException) -> None:
        self._recover(error)
        self._serve()

    def _next(self) -> list[Job]:
        """Wait for the first job that is ready, and those to be done with it; none: stop."""
        with self._condition:
            while not self._stopping:
                self._waiting = [entry for entry in self._waiting if not entry[2].ended]
                entries = self._first_ready()
                if entries:
                    taken = {order for _, order, _ in entries}
                    self._waiting = [entry for entry in self._waiting if entry[1] not in taken]
                    self._current = jobs = [job for _, _, job in entries]
                    for job in jobs:
                        job.interrupted = functools.partial(self._better_waits, job.rank)
                    return jobs
                self._condition.wait(_WAIT_FOR_PICTURE if self._waiting else None)
            return []

    def _first_ready(self) -> list[tuple[int, int, Job]]:
        """The best job that is ready, and those right behind it that share its key."""
        entries: list[tuple[int, int, Job]] = []
        key: Hashable = None
        for entry in sorted(self._waiting, key=lambda entry: (entry[2].rank, entry[1])):
            job = entry[2]
            if not job.ready():
                continue
            if not entries:
                entries, key = [entry], job.key()
            elif key is None or entry[0] != entries[0][0] or job.key() != key:
                break
            else:
                entries.append(entry)
            if len(entries) >= self.batch_size:
                break
        return entries

    def _better_waits(self, rank: Priority) -> bool:
        with self._condition:
            return any(
                other < rank and not job.ended and job.ready() for other, _, job in self._waiting
            )
