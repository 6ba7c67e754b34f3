# SPDX-License-Identifier: Apache-2.0
"""The node of `soak.py`: the real one, with faults in its engine, its own timer and its memory.

The faults come one after the other: the engine fails, the device runs out of memory, the inference
thread is killed. Lifecycle and parameters are changed from outside, by the clients.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from soak_common import CAMERAS, SAVE_EVERY, percentile, role, save, warm_up

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.heap import trim
from svd_vlm_ros.node.health.memory import MIB, memory_bytes
from svd_vlm_ros.node.inference.queue import TaskQueue
from svd_vlm_ros.node.perception_node import PerceptionNode

TIMER = 0.1  # s
LOOK = 0.1  # s between two looks at the memory
FAULTS = ("engine fails", "out of memory", "inference thread killed")


class Lateness:
    """How late the executor calls a timer of 10 Hz. It takes its memory at once: it is measured."""

    def __init__(self, node: Any, minutes: float) -> None:
        self._seconds = np.full(int(60 * (minutes + 10) / TIMER), np.nan, np.float32)
        self._count = 0
        self._due = time.monotonic() + TIMER
        node.create_timer(TIMER, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _tick(self) -> None:
        now = time.monotonic()
        late = now - self._due
        if self._count < len(self._seconds):
            self._seconds[self._count] = max(late, 0.0)
            self._count += 1
        self._due += TIMER * (1 + max(int(late / TIMER), 0))  # rcl drops what was missed

    def figures(self) -> dict[str, float]:
        ordered = np.sort(self._seconds[: self._count]).tolist()
        if not ordered:
            return {}
        shares = {"median": 0.5, "p95": 0.95, "p99": 0.99, "worst": 1.0}
        return {name: percentile(ordered, share) for name, share in shares.items()}


class Faults:
    """Breaks the engine once for each fault that `inject` has named."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self._next: str | None = None
        self._order = itertools.cycle(FAULTS)
        see, take = SceneEngine.see, TaskQueue.take

        def breaking_see(engine: SceneEngine, *arguments: Any, **options: Any) -> Any:
            if self._is("engine fails"):
                raise RuntimeError("a fault of the soak test")
            if self._is("out of memory"):
                raise MemoryError("out of memory: a fault of the soak test")
            return see(engine, *arguments, **options)

        def breaking_take(queue: TaskQueue) -> Any:
            tasks = take(queue)
            if tasks and self._is("inference thread killed"):
                raise SystemExit("a fault of the soak test")
            return tasks

        SceneEngine.see = breaking_see  # type: ignore[method-assign]
        TaskQueue.take = breaking_take  # type: ignore[method-assign]

    def inject(self) -> None:
        """Let the next fault happen at the next occasion."""
        self._next = next(self._order)

    def _is(self, name: str) -> bool:
        if self._next != name:
            return False
        self._next = None
        self.done[name] += 1
        return True


class Memory:
    """The least of each minute: images in flight come and go by some 40 MiB within seconds.

    `own` (MiB) is the node's (`node.health.memory`), `in_use` (MiB) what the C library has handed
    out of it: the rest is what it holds free, and Python's small objects, whose number is `blocks`.
    """

    def __init__(self) -> None:
        self._least: dict[str, list[tuple[float, float]]] = {"own": [], "in_use": [], "blocks": []}
        self._begun = time.monotonic()
        self._library = ctypes.CDLL("libc.so.6").mallinfo2
        self._library.restype = _Allocated

    def look(self) -> None:
        now = time.monotonic()
        minute = int((now - self._begun) / 60.0)
        allocated = self._library()
        values = {
            "own": memory_bytes()[1] / MIB,
            "in_use": (allocated.uordblks + allocated.hblkhd) / MIB,
            "blocks": float(sys.getallocatedblocks()),
        }
        for name, value in values.items():
            least = self._least[name]
            if len(least) <= minute:
                least.append((now, value))
            elif value < least[minute][1]:
                least[minute] = (now, value)

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {"resident_mib": memory_bytes()[0] / MIB}
        for name, least in self._least.items():
            found[name] = [round(value, 1) for _, value in least[:-1]]  # the last is not over
        return found


class _Allocated(ctypes.Structure):
    """The C library's `struct mallinfo2`."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    )


def make_node(options: dict[str, Any]) -> PerceptionNode:
    values = {
        "model": options["model"],
        "precision": options["precision"],
        "device": "cpu",
        "cpu_threads": options["threads"],
        "allow_random_model": True,
        "description_period": 1.0,
        "max_new_tokens": 16,
        "cameras": list(CAMERAS),
        "camera.packed.compressed": True,
        **{f"camera.{name}.topic": topic for name, topic in CAMERAS.items()},
    }
    return PerceptionNode(
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()]
    )


def main() -> None:
    folder, options, stopped = role()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = make_node(options)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    faults, lateness = Faults(), None
    warm = warm_up(options)
    memory: Memory | None = None  # from the end of the warm-up on
    begun = saved = looked = time.monotonic()
    broken: float | None = None  # when the next fault is due, once requests are answered

    def save_figures() -> None:
        if memory is not None:
            trim()  # what is free is not the node's
        save(folder, "node", figures(node, faults, lateness, memory, warm))

    while not stopped.is_set():
        executor.spin_once(timeout_sec=0.1)
        now = time.monotonic()
        if node.fatal:
            raise SystemExit(node.fatal)
        if node.active is not None and lateness is None:
            lateness = Lateness(node, options["minutes"])  # loading is not serving
        if broken is not None and now >= broken:
            broken = now + options["fault_every"]
            faults.inject()
        if now - begun > warm and now - looked >= LOOK:
            looked = now
            memory = memory or Memory()
            memory.look()
        if now - saved >= SAVE_EVERY:
            saved = now
            asked = node.active is not None and node.health.snapshot().by_status
            if broken is None and options["fault_every"] and asked:
                broken = now
            threading.Thread(target=save_figures).start()  # the disk must not make the timer late
    save_figures()
    node.close()
    executor.shutdown()
    rclpy.try_shutdown()


def figures(
    node: PerceptionNode,
    faults: Faults,
    lateness: Lateness | None,
    memory: Memory | None,
    warm: float,
) -> dict[str, Any]:
    session = node.configured
    return {
        "timer": lateness.figures() if lateness else {},
        "memory": {"warm_up_s": warm, **(memory.figures() if memory else {})},
        "faults": dict(faults.done),
        "cameras": {
            camera.name: {"received": camera.received, "lost": camera.lost}
            for camera in (session.cameras.values() if session else ())
        },
        "snapshot": {
            name: value for name, value in vars(node.health.snapshot()).items() if name != "latency"
        },
    }


if __name__ == "__main__":
    main()
