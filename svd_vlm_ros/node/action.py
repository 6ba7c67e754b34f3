# SPDX-License-Identifier: Apache-2.0
"""The action `stream_answer`: as the service `ask_scene`, with the text while it is being made.

Every goal is accepted, so that its result can say what is wrong with it. A goal succeeds with
status OK, is canceled with CANCELED where the client asked for it, and is aborted with every other
status.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.qos import QoSProfile

from svd_vlm_ros.action import StreamAnswer
from svd_vlm_ros.node.handling import MANY_REQUESTS, Ticket
from svd_vlm_ros.node.messages import fill_response
from svd_vlm_ros.node.requests import Status

if TYPE_CHECKING:
    from svd_vlm_ros.node.handling import Handler
    from svd_vlm_ros.node.perception_node import PerceptionNode

FEEDBACK = 100  # depth of its publisher
KEEP_RESULT = 60  # s that a client has to fetch its result; rclpy's 900 s would add up
_UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character


class StreamAction:
    """Serves `stream_answer` in every lifecycle state."""

    def __init__(self, node: PerceptionNode, handler: Handler) -> None:
        self._node = node
        self._handler = handler
        self._tickets: dict[bytes, Ticket] = {}  # by the goal's id; of goals that are under way
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
        ticket = self._tickets.get(_key(goal))
        if ticket is not None:  # else it is about to begin, and looks for itself
            ticket.cancel()
        return CancelResponse.ACCEPT

    async def _execute(self, goal: Any) -> Any:
        stream = _Stream(self._node, goal)
        ticket = Ticket(stream.hear)
        self._tickets[_key(goal)] = ticket
        if goal.is_cancel_requested:
            ticket.cancel()
        try:
            reply = await self._handler.handle(goal.request, ticket)
        finally:
            del self._tickets[_key(goal)]
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

    Where the executor is behind, it publishes the newest text alone; nothing piles up.
    """

    def __init__(self, node: PerceptionNode, goal: Any) -> None:
        self._node = node
        self._goal = goal
        self._lock = threading.Lock()
        self._text = self._sent = ""
        self._asked = False  # the executor has been asked to publish

    def hear(self, text: str) -> None:
        """Take the text so far, on any thread."""
        with self._lock:
            self._text = text
            asked, self._asked = self._asked, True
        if not asked:
            self._node.in_executor(self._publish, False)

    def close(self, text: str) -> None:
        """Publish what is left, on the executor's thread."""
        with self._lock:
            self._text = text
        self._publish(True)

    def _publish(self, last: bool) -> None:
        with self._lock:
            self._asked = False
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
