# SPDX-License-Identifier: Apache-2.0
"""The one way of a request, whether by the service or by the action: to a job and its reply.

A coroutine of the executor: it waits without holding it, as many of them at a time as there are
requests. A timer ends a request at its time, whatever the model is doing.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile
from rclpy.task import Future

from svd_vlm_ros.node.answering import Asked
from svd_vlm_ros.node.failures import canceled, refused
from svd_vlm_ros.node.jobs import Job, Priority, QueueFullError
from svd_vlm_ros.node.lifecycle import CONFIGURING, INACTIVE, UNCONFIGURED
from svd_vlm_ros.node.requests import Reply, RequestError, Status, check_request, shown

if TYPE_CHECKING:
    from svd_vlm_ros.node.configuring import Serving
    from svd_vlm_ros.node.perception_node import PerceptionNode

DEACTIVATED = RequestError(
    Status.NOT_ACTIVE,
    "The node was deactivated before the model began: ask again when it is active.",
)
# ROS's own 10 would lose the eleventh of many requests that come at once, without a word.
MANY_REQUESTS = QoSProfile(depth=1000)
LATE = 0.1  # s that the engine has after the deadline to hand over what it has said so far


class Ticket:
    """What whoever asked holds of a request: it can be canceled, at any time and by any thread."""

    def __init__(self, on_text: Callable[[str], None] | None = None) -> None:
        self.on_text = on_text
        self._job: Job[Reply] | None = None
        self._canceled = False

    def cancel(self) -> None:
        """End the request: at once where it waits, at the next token where it is being answered."""
        self._canceled = True
        job = self._job
        if job is None:
            return
        job.subject.given_up = True
        job.cancel()
        if job.began is None:
            job.end(canceled(job.subject))

    def hold(self, job: Job[Reply]) -> None:
        """The request has become this job."""
        self._job = job
        if self._canceled:
            self.cancel()


class Handler:
    """Answers requests in every lifecycle state; where the node is not active, NOT_ACTIVE."""

    def __init__(self, node: PerceptionNode) -> None:
        self.group = ReentrantCallbackGroup()
        self._node = node
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)

    async def handle(self, request: Any, ticket: Ticket) -> Reply:
        """The reply to AskScene's request or StreamAnswer's goal; raises nothing."""
        node = self._node
        try:
            reply = await self._reply(request, ticket)
        except RequestError as refusal:
            reply = refused(refusal, shown(request.camera))
        except Exception as error:  # a fault of ours costs this request, not the node
            node.get_logger().error(traceback.format_exc())
            reply = Reply(
                Status.ERROR, f"The node failed on this request ({error!r}): see its log."
            )
        node.note(reply)
        return reply

    async def _reply(self, request: Any, ticket: Ticket) -> Reply:
        node = self._node
        serving = node.serving
        if serving is None:
            raise RequestError(Status.NOT_ACTIVE, why_not_active(node))
        question = check_request(request, node.settings.limits)
        serving.answerer.choose_frame(question)  # refuse at once what would be refused later
        future = Future()

        def deliver(reply: Reply) -> None:
            future.set_result(reply)
            node.wake()

        asked = Asked(question, ticket.on_text)
        job = Job(
            serving.answerer.answer,
            priority=Priority.QUESTION,
            failed=lambda error: serving.answerer.failed(error, question),
            on_end=deliver,
            ready=lambda: serving.answerer.ready(asked),
            key=lambda: serving.answerer.key(asked),
            seconds=question.timeout,
            subject=asked,
        )
        self._submit(serving, job)
        ticket.hold(job)
        if node.serving is not serving:  # deactivated while this thread was here
            job.end(refused(DEACTIVATED))
        timer = node.create_timer(
            question.timeout + LATE,
            lambda: job.end(serving.answerer.late(question, job)),
            # A group of its own: a group keeps a weak reference to all that was ever in it, so a
            # lasting one would grow with every request.
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=self._clock,
        )
        try:
            return await future
        finally:
            node.destroy_timer(timer)

    def _submit(self, serving: Serving, job: Job[Reply]) -> None:
        size = self._node.settings.queue_size
        try:
            serving.inference.submit(job, size)
        except QueueFullError:
            raise RequestError(
                Status.BUSY,
                f"{size} questions wait for the model already: ask later, or raise queue_size.",
            ) from None


def why_not_active(node: PerceptionNode) -> str:
    """Why a request cannot be served now, and what to do, in one sentence."""
    state, name = node.state, node.get_fully_qualified_name()
    if state == CONFIGURING:
        seconds = time.monotonic() - node.load_began
        return f"The model is being loaded ({seconds:.0f} s so far): ask when the node is active."
    if state in (UNCONFIGURED, INACTIVE) and node.failure:
        return f"The node has no model: {node.failure}"
    if state == UNCONFIGURED:
        return (
            f"The node is not configured: run 'ros2 lifecycle set {name} configure', then "
            "'activate'."
        )
    if state == INACTIVE:
        return f"The node is not active: run 'ros2 lifecycle set {name} activate'."
    return f"The node is {state}: ask again when it is active."
