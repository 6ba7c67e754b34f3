# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node whose transitions may take their time: they run beside the executor, not in it.

rclpy runs a transition inside the callback of the service `change_state`. Loading a model takes up
to minutes, and for so long nobody could ask the node's state or parameters, and no request would
get its NOT_ACTIVE. Here each transition runs on a thread of its own, one at a time; the service
replies when it is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.task import Future

from svd_vlm_ros.ros.distributions import HookedNode

UNCONFIGURED, CONFIGURING, INACTIVE, ACTIVE = "unconfigured", "configuring", "inactive", "active"


class BackgroundLifecycleNode(HookedNode):
    """Transitions on a thread of their own; `failure` says why the last one failed."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.failure = ""
        self._transition = threading.Lock()
        self._thread: threading.Thread | None = None
        # rclpy has no public way to do this: the service as it is, but with a coroutine around its
        # callback, and out of the default group, which would wait for the coroutine's end.
        service = self._service_change_state
        self._change_state_inside = service.callback
        service.callback = self._change_state
        service.callback_group = ReentrantCallbackGroup()
        service.callback_group.add_entity(service)

    @property
    def state(self) -> str:
        """Label of the lifecycle state, e.g. "active"; within a transition e.g. "configuring"."""
        return str(self._state_machine.current_state[1])

    def start(self, on_failure: Callable[[str], None]) -> None:
        """Configure and activate in the background; if that fails, call `on_failure(why)`."""

        def transitions() -> None:
            with self._transition:
                good = TransitionCallbackReturn.SUCCESS
                done = self.trigger_configure() == good and self.trigger_activate() == good
            if not done:
                on_failure(self.failure)

        self._run(transitions)

    def join_transition(self, seconds: float) -> None:
        """Wait until no transition is under way, not longer than `seconds`."""
        if self._thread is not None:
            self._thread.join(seconds)

    async def _change_state(self, request: Any, response: Any) -> Any:
        """Callback of the service change_state."""
        if not self._transition.acquire(blocking=False):
            self.get_logger().warning(
                "A transition is under way: this request to change the state is refused."
            )
            response.success = False
            return response
        future = Future()

        def transition() -> None:
            try:
                done = self._change_state_inside(request, response)
            except Exception as error:  # rclpy raises on a transition that this state does not have
                self.get_logger().warning(f"No such transition from state '{self.state}': {error}")
                response.success = False
                done = response
            finally:
                self._transition.release()
            future.set_result(done)
            self.wake()

        self._run(transition)
        return await future

    def wake(self) -> None:
        """Let the executor look at its futures; from any thread."""
        executor = self.executor
        if executor is not None:
            executor.wake()

    def _run(self, target: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=target, name="transition", daemon=True)
        self._thread.start()
