# SPDX-License-Identifier: Apache-2.0
"""The one thread that owns the model: loads it, works off the queue, frees it. No ROS in it.

Other threads submit tasks and go on. If the thread itself fails, it begins anew.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from svd_vlm_ros.node.inference.queue import TaskQueue
from svd_vlm_ros.node.inference.tasks import Task, run

if TYPE_CHECKING:
    from svd_vlm_ros.engine import EngineInfo, SceneEngine

_BEFORE_RESTART = 0.1  # s, so that a thread that fails at once does not fail all the time


class Worker:
    """Loads an engine with `load()` on a thread of its own and serves tasks until it is stopped.

    `wait_loaded` tells when loading has ended: with `info` of the engine, or with `load_error`.
    `stop` asks for the end: a task under way stops at its next token; what Python cannot interrupt
    (loading, the vision encoder) is let run to its end, and the engine is closed after it.
    `on_crash(error)` is called when the thread has failed outside of a task, before it goes on.
    """

    def __init__(
        self,
        load: Callable[[], SceneEngine],
        on_crash: Callable[[BaseException], None] = lambda error: None,
        queue: TaskQueue | None = None,
    ) -> None:
        self.queue = TaskQueue() if queue is None else queue
        self.load_error: BaseException | None = None
        self.info: EngineInfo | None = None
        self.restarts = 0
        self._load = load
        self._on_crash = on_crash
        self._engine: SceneEngine | None = None
        self._loaded = threading.Event()
        self._lock = threading.Lock()  # of the thread's replacement
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

    def wait_loaded(self, seconds: float) -> bool:
        """Wait until loading has ended, well or not; False if it goes on after `seconds`."""
        return self._loaded.wait(seconds)

    def submit(self, task: Task[Any], limit: int) -> None:
        """Queue a task. Raises `QueueFullError` if `limit` tasks of its priority wait already."""
        if not self._thread.is_alive():
            self.revive()
        self.queue.put(task, limit)

    def stop(self, seconds: float) -> bool:
        """Ask the thread to end and wait; whether it has ended. Drain the queue before."""
        self.revive()  # a thread that was killed could not close the engine
        with self._lock:
            self._stopping = True
        self.queue.close()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def revive(self) -> None:
        """Put another thread in the place of one that has ended within `_recover`."""
        with self._lock:
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
            except BaseException as error:  # tasks fail in `run`: this is something else
                self._recover(error)
        self._engine = None
        engine.close()

    def _work(self, engine: SceneEngine) -> None:
        while batch := self.queue.take():
            run(batch, engine)
            self.info = engine.info
            self.queue.done()
            del batch  # their messages and results must not outlive them

    def _recover(self, error: BaseException) -> None:
        """Account for a failure; whatever was under way has failed.

        On the same thread, which nothing else than an exception can end: another one would have
        libraries allocate their buffers once more, and some never free those of a thread.
        """
        failed = self.queue.done()
        self.restarts += 1
        for task in failed:
            task.fail(error)
        self._on_crash(error)
        time.sleep(_BEFORE_RESTART)

    def _serve_after(self, error: BaseException) -> None:
        self._recover(error)
        self._serve()
