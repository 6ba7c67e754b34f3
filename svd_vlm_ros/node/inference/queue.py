# SPDX-License-Identifier: Apache-2.0
"""The tasks that wait for the model, in their order. No ROS in it.

Tasks of one priority are done in their order of arrival, after those that have waited for so long
that they have come up to it. A task whose image has not come lets others go first. The thread that
takes tasks sleeps until something happens: a task is put, or `wake` tells of a new frame.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Hashable
from typing import Any

from svd_vlm_ros.node.inference.tasks import Priority, Task


class QueueFullError(Exception):
    """As many tasks wait as may."""


class QueueRefusesError(Exception):
    """The queue was drained, and takes no requests until `accept`."""


class TaskQueue:
    """Filled by any thread, emptied by one.

    Attributes:
        batch_size: most tasks that are done together.
        current: the tasks under way, the first one in front.
    """

    def __init__(self) -> None:
        self.batch_size = 1
        self.current: list[Task[Any]] = []
        self._condition = threading.Condition()
        self._waiting: list[Task[Any]] = []  # in order of arrival
        self._refuses = False
        self._closed = False

    def put(self, task: Task[Any], limit: int) -> None:
        """Add a task.

        Raises:
            QueueFullError: `limit` tasks of its priority wait already.
            QueueRefusesError: it is a request, and the queue was drained.
        """
        task.queue = self
        with self._condition:
            if self._refuses and task.priority is not Priority.CONTROL:
                raise QueueRefusesError
            if sum(other.priority is task.priority for other in self._waiting) >= limit:
                raise QueueFullError
            if not task.ended:
                self._waiting.append(task)
                self._condition.notify()

    def wake(self) -> None:
        """A frame has come: look again whether a task that waits for one can begin."""
        # Without the lock: a task that is put after this line finds the frame by itself.
        if self._waiting:
            with self._condition:
                self._condition.notify()

    def discard(self, task: Task[Any]) -> None:
        """Let a task go that has ended while it waited."""
        with self._condition:
            if task in self._waiting:
                self._waiting.remove(task)

    def waiting(self, priority: Priority | None = None) -> int:
        """How many tasks wait, of one priority or of all."""
        with self._condition:
            return sum(priority in (None, task.priority) for task in self._waiting)

    def busy_for(self) -> float:
        """Seconds that the model has been at its task."""
        current = self.current  # read once: the inference thread replaces it
        turn = current[0].turn if current else None
        return time.monotonic() - turn.at if turn is not None else 0.0

    def take(self) -> list[Task[Any]]:
        """Wait for the first task that can begin, and those to be done with it; none: closed."""
        with self._condition:
            while not self._closed:
                batch = self._first_batch()
                if batch:
                    self._waiting = [task for task in self._waiting if task not in batch]
                    self.current = batch
                    return batch
                self._condition.wait()
            return []

    def done(self) -> list[Task[Any]]:
        """The tasks that were under way; none is any more."""
        with self._condition:
            batch, self.current = self.current, []
        return batch

    def drain(self) -> list[Task[Any]]:
        """Take all requests out, for the caller to end; ask what is under way to stop.

        From here on requests are refused, until `accept`.

        Changes of the engine stay: they hold for whoever asks next.
        """
        with self._condition:
            tasks = [task for task in self._waiting if task.priority is not Priority.CONTROL]
            self._waiting = [task for task in self._waiting if task.priority is Priority.CONTROL]
            self._refuses = True
            for task in self.current:
                task.cancel()
        return tasks

    def accept(self) -> None:
        """Take requests again."""
        with self._condition:
            self._refuses = False

    def close(self) -> None:
        """Let `take` end, and ask what is under way to stop. Drain the queue before."""
        with self._condition:
            self._closed = True
            for task in self.current:
                task.cancel()
            self._condition.notify()

    def _first_batch(self) -> list[Task[Any]]:
        """The best task that can begin, and those right behind it that share its key."""
        now = time.monotonic()
        batch: list[Task[Any]] = []
        key: Hashable = None
        for task, rank in self._by_rank():
            if task.ended:
                continue
            turn = task.turn_at(now)
            if turn is None:
                continue
            if not batch:
                key = turn.key
            elif key is None or turn.key != key or task.priority is not batch[0].priority:
                break
            task.turn = turn
            task.interrupted = functools.partial(self._has_better, rank)
            batch.append(task)
            if len(batch) >= self.batch_size:
                break
        return batch

    def _by_rank(self) -> list[tuple[Task[Any], Priority]]:
        """All that wait, the first in front, with their ranks of this moment."""
        ranked = [(task, task.rank) for task in self._waiting]
        # In front of its new rank: else it would wait for as many answers as the queue is long.
        return sorted(ranked, key=lambda pair: (pair[1], pair[1] == pair[0].priority))

    def _has_better(self, rank: Priority) -> bool:
        """Whether a task waits that goes before this rank and can begin."""
        with self._condition:
            now = time.monotonic()
            return any(task.rank < rank and task.turn_at(now) is not None for task in self._waiting)
