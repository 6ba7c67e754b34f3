# SPDX-License-Identifier: Apache-2.0
"""One node as a process: spin until Ctrl-C, then end in order, in seconds, without a traceback."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from svd_vlm_ros.errors import UserError

if TYPE_CHECKING:
    from rclpy.executors import SingleThreadedExecutor

END_WITHIN = 2.5  # s from the signal to the end of the process, whatever a library is doing
LAST_REPLIES = 0.2  # s to send replies to those who still wait
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(make_node: Callable[[], Any], arguments: Sequence[str] | None = None) -> NoReturn:
    """Spin the node that `make_node()` makes until SIGINT or SIGTERM (status 0) or it fails (1).

    `make_node` should also do the imports that take long: from here on Ctrl-C is heard. A node may
    have `close()`, called before it is destroyed, and `fatal`, a sentence or None: why it has
    failed. It then calls the `on_fatal` that it is given.
    """
    ending = _Ending()
    ending.listen()
    import rclpy
    from rclpy.exceptions import ParameterException
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    node: Any = None
    failure: str | None = None
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        ending.executor = executor = SingleThreadedExecutor()
        node = make_node()
        node.on_fatal = ending.stop
        executor.add_node(node)
        while not ending.stopped.is_set() and rclpy.ok():
            executor.spin_once()
        failure = getattr(node, "fatal", None)
        if hasattr(node, "close"):
            node.close()
        end = time.monotonic() + LAST_REPLIES
        while time.monotonic() < end and rclpy.ok():
            executor.spin_once(timeout_sec=LAST_REPLIES / 10)
    except (UserError, ParameterException) as error:
        failure = str(error)
        print(failure, file=sys.stderr)
    except ImportError as error:
        if node is not None:
            raise
        failure = " ".join(str(error).split())
        print(
            f"A library cannot be imported ({failure}): 'svd-vlm doctor' says what to do.",
            file=sys.stderr,
        )
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
    # Not by the interpreter's own end: that one aborts beside a thread that is inside a library,
    # and takes seconds with torch loaded on a busy machine. ROS has been shut down in order, and
    # there is nothing to save.
    _leave(1 if failure else 0)


class _Ending:
    """The wish to end, by a signal or from the node, and the time limit that a signal brings.

    The signals' handlers do nothing, so none ever raises within other code, also not the second of
    a double Ctrl-C. Python tells of a signal through a socket at once, whatever the main thread is
    doing; a thread listens there.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.executor: SingleThreadedExecutor | None = None

    def listen(self) -> None:
        """Take over SIGINT and SIGTERM."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._wait, args=(reader,), name="signals", daemon=True).start()

    def stop(self) -> None:
        """End the spinning, from any thread."""
        self.stopped.set()
        if self.executor is not None:
            self.executor.create_task(lambda: None)  # wake() alone would let spin_once wait on

    def _wait(self, reader: socket.socket) -> None:
        """Wait for a signal; make sure that the process then ends within `END_WITHIN`."""
        while reader.recv(1)[0] not in _SIGNALS:
            pass
        self.stop()
        time.sleep(END_WITHIN)
        _leave(0)


def _leave(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
