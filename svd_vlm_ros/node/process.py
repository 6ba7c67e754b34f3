# SPDX-License-Identifier: Apache-2.0
"""One node as a process: spin until Ctrl-C, then end in order, in seconds, without a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from svd_vlm_ros.errors import UserError

END_WITHIN = 2.5  # s from the signal to the end of the process, whatever a library is doing
LAST_REPLIES = 0.2  # s to send replies to those who still wait
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending(Protocol):
    """What a node of `run` offers beside a node's own."""

    fatal: str | None  # why the process shall end with status 1
    on_fatal: Callable[[], None] | None

    def close(self) -> bool: ...  # noqa: D102


def run(make_node: Callable[[], Node], arguments: Sequence[str] | None = None) -> int:
    """Spin the node that `make_node()` makes until a signal or its failure; the exit status.

    Signals are blocked in all threads and awaited by one. So none interrupts Python code at a bad
    place, also not the second of a double Ctrl-C, and that thread ends the process where the
    ordinary way takes too long: a library may be loading gigabytes, which nothing in Python can
    interrupt.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    ending = _Ending()
    threading.Thread(target=ending.wait_for_signal, name="signals", daemon=True).start()
    node: Node | None = None
    failure: str | None = None
    ended = True
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        ending.executor = executor = SingleThreadedExecutor()
        node = make_node()
        executor.add_node(node)
        if hasattr(node, "on_fatal"):
            node.on_fatal = ending.stop
        while not ending.stopped.is_set() and rclpy.ok():
            executor.spin_once()
        failure = getattr(node, "fatal", None)
        if hasattr(node, "close"):
            ended = node.close()
        end = time.monotonic() + LAST_REPLIES
        while time.monotonic() < end and rclpy.ok():
            executor.spin_once(timeout_sec=LAST_REPLIES / 10)
    except UserError as error:
        failure = str(error)
        print(failure, file=sys.stderr)
    except ExternalShutdownException:
        pass
    except RuntimeError as error:  # rcl: arguments that it cannot read
        if node is not None:
            raise
        failure = str(error).splitlines()[0]
        print(f"The arguments of ROS cannot be used: {failure}", file=sys.stderr)
    if node is not None:
        node.destroy_node()
    rclpy.try_shutdown()
    status = 1 if failure else 0
    if not ended:
        _leave(status)  # a thread is inside a library; the interpreter's own end would abort on it
    return status


class _Ending:
    """The wish to end, by a signal or from the node, and the time limit that a signal brings."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.executor: SingleThreadedExecutor | None = None

    def wait_for_signal(self) -> None:
        """Wait for SIGINT or SIGTERM; make sure that the process ends within `END_WITHIN`."""
        signal.sigwait(_SIGNALS)
        self.stop()
        time.sleep(END_WITHIN)
        _leave(0)

    def stop(self) -> None:
        """End the spinning, from any thread."""
        self.stopped.set()
        if self.executor is not None:
            self.executor.create_task(lambda: None)  # wake() alone would let spin_once wait on


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
