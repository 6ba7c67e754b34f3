# SPDX-License-Identifier: Apache-2.0
"""A question to the model, from its arrival to its reply. No ROS in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from svd_vlm_ros.node.inference.freshness import choose_frame
from svd_vlm_ros.node.inference.replies import Reply, RequestError, Status
from svd_vlm_ros.node.inference.tasks import Priority, Task, Turn

if TYPE_CHECKING:
    from svd_vlm_ros.engine import SceneEngine
    from svd_vlm_ros.node.cameras.frames import Frame
    from svd_vlm_ros.node.inference.questions import Question

GIVEN_UP = "The goal was canceled."
CUT_OFF = "The node was deactivated or shut down while it answered: activate it and ask again."


class FrameSource(Protocol):
    """What a request needs of a camera: its newest frame, and the topic to name in a sentence."""

    @property
    def latest(self) -> Frame | None: ...  # noqa: D102
    @property
    def topic(self) -> str: ...  # noqa: D102


class RosTime(Protocol):
    """A time of rclpy."""

    @property
    def nanoseconds(self) -> int: ...  # noqa: D102


class RosClock(Protocol):
    """A clock of rclpy."""

    def now(self) -> RosTime: ...  # noqa: D102


class Server(Protocol):
    """What answers requests; see `answers.Answerer`."""

    cameras: Mapping[str, FrameSource]
    clock: RosClock

    def answer(self, engine: SceneEngine, batch: Sequence[Request]) -> Sequence[Reply]: ...  # noqa: D102
    def failed(self, error: BaseException, question: Question) -> Reply: ...  # noqa: D102


class Request(Task[Reply]):
    """One question on its way; made when it arrives, `admit`ted when it was checked.

    `on_text` hears of the answer's text while it is made, on the inference thread. `given_up`:
    whoever asked has canceled it.
    """

    question: Question
    _source: FrameSource
    _server: Server

    def __init__(
        self,
        on_text: Callable[[str], None] | None = None,
        priority: Priority = Priority.QUESTION,
    ) -> None:
        super().__init__(priority)
        self.on_text = on_text
        self.given_up = False

    def admit(self, question: Question, server: Server) -> None:
        """Know what is asked, and who answers. Raises `RequestError` if no frame can serve it.

        What would be refused later is refused at once.
        """
        self.question, self._server = question, server
        source = self._source = server.cameras[question.camera]
        self.deadline = self.arrived + question.timeout
        ros_now = server.clock.now().nanoseconds
        choose_frame(question, source.latest, source.topic, ros_now, self.arrived)

    def turn_at(self, now: float) -> Turn | None:
        """The newest frame, if the question may be answered with it, or the refusal."""
        source, ros_now = self._source, self._server.clock.now().nanoseconds
        try:
            return choose_frame(self.question, source.latest, source.topic, ros_now, now)
        except RequestError as refusal:
            # Its traceback holds this request and a frame, and the request will hold the turn.
            return Turn(now, refusal=refusal.with_traceback(None))

    def work(self, engine: SceneEngine, batch: Sequence[Request]) -> Sequence[Reply]:  # type: ignore[override]
        """Answer the questions of a batch."""
        return self._server.answer(engine, batch)

    def failure(self, error: BaseException) -> Reply:
        """The reply to a question that the engine failed on."""
        return self._server.failed(error, self.question)

    def give_up(self) -> None:
        """End it: at once if it waits, at the next token if it is being answered. By any thread."""
        self.given_up = True
        self.cancel()
        if self.queue is not None and self.turn is None:
            self.end(self.canceled_reply())

    def canceled_reply(self) -> Reply:
        """The reply to a request that was canceled, by whoever asked or by the node."""
        sentence = GIVEN_UP if self.given_up else CUT_OFF
        return Reply(Status.CANCELED, sentence, self.question.camera)
