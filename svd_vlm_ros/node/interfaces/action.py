# SPDX-License-Identifier: Apache-2.0
"""The action `stream_answer`: as the service `ask_scene`, with the text while it is being made.

Every goal is accepted, so that its result can say what is wrong with it. A goal succeeds with
status OK, is canceled with CANCELED if the client asked for it, and is aborted with every other
status.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.qos import QoSProfile

from svd_vlm_ros.action import StreamAnswer
from svd_vlm_ros.node.inference.replies import Status
from svd_vlm_ros.node.inference.requests import Request
from svd_vlm_ros.node.interfaces.handler import MANY_REQUESTS
from svd_vlm_ros.node.interfaces.messages import fill_response

if TYPE_CHECKING:
    from rclpy.node import Node

    from svd_vlm_ros.node.interfaces.handler import RequestHandler

InExecutor = Callable[[Callable[[Any], None], Any], None]

FEEDBACK = 100  # depth of its publisher
KEEP_RESULT = 60  # s that a client has to fetch its result; rclpy's 900 s would add up
_UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character


class StreamAction:
    """Serves `stream_answer` in every lifecycle state.

    `in_executor` calls a function with an argument on the executor's thread.
    """

    def __init__(self, node: Node, handler: RequestHandler, in_executor: InExecutor) -> None:
        self._handler = handler
        self._in_executor = in_executor
        self._requests: dict[bytes, Request] = {}  # by the goal's id; those under way
        self.server = ActionServer(
            node,
            StreamAnswer,
            "stream_answer",
            self._execute,
            callback_group=handler.group,
            cancel_callback=self._cancel,
            goal_service_qos_profile=MANY_REQUESTS,
            result_service_qos_profile=MANY_REQUESTS,
            cancel_service_qos_profile=MANY_REQUESTS,
            feedback_pub_qos_profile=QoSProfile(depth=FEEDBACK),
            result_timeout=KEEP_RESULT,
        )

    def _cancel(self, goal: Any) -> CancelResponse:
        request = self._requests.get(_key(goal))
        if request is not None:  # else it is about to begin, and looks for itself
            request.give_up()
        return CancelResponse.ACCEPT

    async def _execute(self, goal: Any) -> Any:
        stream = _Stream(self._in_executor, goal)
        request = self._requests[_key(goal)] = Request(stream.hear)
        if goal.is_cancel_requested:
            request.give_up()
        try:
            reply = await self._handler.handle(goal.request, request)
        finally:
            del self._requests[_key(goal)]
        if reply.answer is not None:
            stream.close(reply.answer.text)
        if reply.status is Status.OK:
            goal.succeed()
        elif reply.status is Status.CANCELED and goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return fill_response(StreamAnswer.Result(), reply)

    def destroy(self) -> None:
        """End the action server."""
        self.server.destroy()


class _Stream:
    """Feedback of one goal: text comes from the inference thread and goes out on the executor's.

    If the executor is behind, it publishes the newest text alone; nothing piles up.
    """

    def __init__(self, in_executor: InExecutor, goal: Any) -> None:
        self._in_executor = in_executor
        self._goal = goal
        self._lock = threading.Lock()
        self._text = self._sent = ""
        self._scheduled = False  # the executor is about to publish

    def hear(self, text: str) -> None:
        """Take the text so far, on any thread."""
        with self._lock:
            self._text = text
            scheduled, self._scheduled = self._scheduled, True
        if not scheduled:
            self._in_executor(self._publish, False)

    def close(self, text: str) -> None:
        """Publish what is left, on the executor's thread."""
        with self._lock:
            self._text = text
        self._publish(True)

    def _publish(self, last: bool) -> None:
        with self._lock:
            self._scheduled = False
            text = self._text
        if text == self._sent or not self._goal.is_active:
            return
        if not last and (text.endswith(_UNFINISHED) or not text.startswith(self._sent)):
            return  # the next token completes it
        piece = text[len(self._sent) :] if text.startswith(self._sent) else text
        self._sent = text
        self._goal.publish_feedback(StreamAnswer.Feedback(text=text, piece=piece))


def _key(goal: Any) -> bytes:
    return bytes(goal.goal_id.uuid)
