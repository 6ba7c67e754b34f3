# SPDX-License-Identifier: Apache-2.0
"""The one way of a request, whether by the service or by the action: to the queue and its reply.

A coroutine of the executor: it waits without holding it, as many of them at a time as there are
requests. A timer ends a request at its time, whatever the model is doing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.qos import QoSProfile
from rclpy.task import Future

from svd_vlm_ros.node.inference.questions import check_request, shown
from svd_vlm_ros.node.inference.queue import QueueFullError, QueueRefusesError
from svd_vlm_ros.node.inference.replies import Reply, RequestError, Status, refused
from svd_vlm_ros.node.session import Session, deactivated

if TYPE_CHECKING:
    from svd_vlm_ros.node.inference.questions import AskMessage
    from svd_vlm_ros.node.inference.requests import Request
    from svd_vlm_ros.node.parameters.settings import Settings

# ROS's own 10 would lose the eleventh of many requests that come at once, without a word.
MANY_REQUESTS = QoSProfile(depth=1000)
LATE = 0.1  # s that the engine has after the deadline to hand over the text so far


class Logger(Protocol):
    """A logger of rclpy."""

    def error(self, message: str) -> Any: ...  # noqa: D102


class RequestHandler:
    """Answers requests in every lifecycle state; if the node is not active, with NOT_ACTIVE.

    `active()` gives the session while the node is active, else `why_not_active()` says why not.
    `note(reply)` hears how each request ended; `wake()` lets the executor look at its futures. The
    timers run by the computer's own clock.
    """

    def __init__(
        self,
        logger: Logger,
        *,
        create_timer: Callable[..., Any],
        destroy_timer: Callable[[Any], Any],
        active: Callable[[], Session | None],
        settings: Callable[[], Settings],
        why_not_active: Callable[[], str],
        note: Callable[[Reply], None],
        wake: Callable[[], None],
    ) -> None:
        self.group = ReentrantCallbackGroup()
        self._create_timer = create_timer
        self._destroy_timer = destroy_timer
        self._logger = logger
        self._active = active
        self._settings = settings
        self._why_not_active = why_not_active
        self._note = note
        self._wake = wake

    async def handle(self, message: AskMessage, request: Request) -> Reply:
        """The reply to AskScene's request or StreamAnswer's goal; raises nothing."""
        try:
            session = self._active()
            if session is None:
                raise RequestError(Status.NOT_ACTIVE, self._why_not_active())
            settings = self._settings()
            request.admit(check_request(message, settings.limits), session.answerer)
            reply = await self._replied(request, session, settings.queue_size)
        except RequestError as refusal:
            reply = refused(refusal, shown(message.camera))
        except Exception as error:  # a fault of ours costs this request, not the node
            self._logger.error(traceback.format_exc())
            reply = Reply(
                Status.ERROR, f"The node failed on this request ({error!r}): see its log."
            )
        self._note(reply)
        return reply

    async def _replied(self, request: Request, session: Session, queue_size: int) -> Reply:
        """Put the request into the queue, and wait for its end."""
        future = Future()

        def deliver(reply: Reply) -> None:
            future.set_result(reply)
            self._wake()

        request.on_end = deliver
        try:
            session.worker.submit(request, queue_size)
        except QueueFullError:
            raise RequestError(
                Status.BUSY,
                f"{queue_size} questions wait for the model already: ask later, or raise "
                "queue_size.",
            ) from None
        except QueueRefusesError:  # deactivated while this thread was here
            raise deactivated() from None
        if request.canceled:  # before it was in the queue
            request.give_up()
        timer = self._create_timer(
            request.question.timeout + LATE,
            lambda: request.end(session.answerer.late(request)),
            # A group of its own: a group keeps a weak reference to all that was ever in it, so a
            # lasting one would grow with every request.
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        try:
            reply: Reply = await future
            return reply
        finally:
            self._destroy_timer(timer)
