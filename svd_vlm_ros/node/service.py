# SPDX-License-Identifier: Apache-2.0
"""The service `ask_scene`: a request becomes a job, the job's end becomes the response.

The callback is a coroutine: it waits without holding the executor, as many of them at a time as
there are requests. A timer ends a request at its time, whatever the model is doing.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.task import Future

from svd_vlm_ros.node.answering import refused
from svd_vlm_ros.node.inference import Job, Priority, QueueFullError
from svd_vlm_ros.node.lifecycle import CONFIGURING, INACTIVE, UNCONFIGURED
from svd_vlm_ros.node.messages import fill_response
from svd_vlm_ros.node.requests import Reply, RequestError, Status, check_request
from svd_vlm_ros.srv import AskScene

if TYPE_CHECKING:
    from svd_vlm_ros.node.perception_node import PerceptionNode

DEACTIVATED = RequestError(
    Status.NOT_ACTIVE,
    "The node was deactivated before the model began: ask again when it is active.",
)
LATE = 0.1  # s that the engine has after the deadline to hand over what it has said so far


class AskService:
    """Serves `ask_scene` in every lifecycle state; where the node is not active, NOT_ACTIVE."""

    def __init__(self, node: PerceptionNode) -> None:
        self._node = node
        self._group = ReentrantCallbackGroup()
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.service = node.create_service(
            AskScene, "ask_scene", self._on_ask, callback_group=self._group
        )

    async def _on_ask(self, request: Any, response: Any) -> Any:
        try:
            reply = await self._reply(request)
        except RequestError as refusal:
            reply = refused(refusal, request.camera)
        except Exception as error:  # a fault of ours costs this request, not the node
            self._node.get_logger().error(traceback.format_exc())
            reply = Reply(
                Status.ERROR, f"The node failed on this request ({error!r}): see its log."
            )
        self._node.health.note(reply)
        return fill_response(response, reply, self._node.settings_if_any)

    async def _reply(self, request: Any) -> Reply:
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

        job = Job(
            lambda engine, job: serving.answerer.answer(engine, job, question),
            priority=Priority.QUESTION,
            failed=lambda error: serving.answerer.failed(error, question),
            on_end=deliver,
            ready=lambda: serving.answerer.ready(question),
            seconds=question.timeout,
        )
        try:
            serving.inference.submit(job, node.settings.queue_size)
        except QueueFullError:
            raise RequestError(
                Status.BUSY,
                f"{node.settings.queue_size} questions wait for the model already: ask later, or "
                "raise queue_size.",
            ) from None
        if node.serving is not serving:  # deactivated while this thread was here
            job.end(refused(DEACTIVATED))
        timer = node.create_timer(
            question.timeout + LATE,
            lambda: job.end(serving.answerer.late(question, job)),
            callback_group=self._group,
            clock=self._clock,
        )
        try:
            return await future
        finally:
            node.destroy_timer(timer)


def why_not_active(node: PerceptionNode) -> str:
    """Why a request cannot be served now, and what to do, in one sentence."""
    state, name = node.state, node.get_fully_qualified_name()
    if state == CONFIGURING:
        seconds = time.monotonic() - node.load_began
        return f"The model is being loaded ({seconds:.0f} s so far): ask when the node is active."
    if state == UNCONFIGURED and node.failure:
        return f"The node has no model: {node.failure}"
    if state == UNCONFIGURED:
        return (
            f"The node is not configured: run 'ros2 lifecycle set {name} configure', then "
            "'activate'."
        )
    if state == INACTIVE:
        return f"The node is not active: run 'ros2 lifecycle set {name} activate'."
    return f"The node is {state}: ask again when it is active."
