# SPDX-License-Identifier: Apache-2.0
"""The topics `scene_description` and `fact_changed`: each camera's newest image, once a period.

Standing questions wait behind questions, though not for ever, and a description behind those; a
question interrupts the description under way: it is left out, and the next period describes a newer
image. None is made twice of one image, unless other facts are to be asked about it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rclpy.qos import QoSDurabilityPolicy, QoSProfile

from svd_vlm_ros.facts import FactTracker, Observation
from svd_vlm_ros.node.inference.descriptions import FACT_PATIENCE, StandingRequest
from svd_vlm_ros.node.inference.failures import random_model_refusal
from svd_vlm_ros.node.inference.questions import Question
from svd_vlm_ros.node.inference.queue import QueueFullError, QueueRefusesError
from svd_vlm_ros.node.inference.replies import Reply, Status
from svd_vlm_ros.node.inference.tasks import Priority
from svd_vlm_ros.node.interfaces.messages import description_message, fact_changed_message

if TYPE_CHECKING:
    from svd_vlm_ros.node.cameras.subscriptions import Camera
    from svd_vlm_ros.node.parameters.settings import Settings
    from svd_vlm_ros.node.session import Session

DEPTH = 10  # of the publishers
OVERDUE = 1.0  # s beyond the patience of facts, after which the diagnostics say why they wait
_QUIET = (
    Status.STALE_IMAGE,
    Status.CANCELED,
)  # a question came first, or the diagnostics tell already
# Who subscribes later still hears how things stand.
LATCHED = QoSProfile(depth=DEPTH, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class Publisher(Protocol):
    """A publisher of rclpy."""

    def publish(self, message: Any) -> None: ...  # noqa: D102


class DescriptionTopics:
    """Describes the cameras of the active session, and keeps its facts. All on the executor.

    `active()` and `settings()` give those of the moment, `silent_facts()` the names of the facts
    that have no question; `note(reply)` hears how each description ended; `in_executor` calls a
    function with an argument on the executor's thread.
    """

    def __init__(
        self,
        descriptions: Publisher,
        changes: Publisher,
        *,
        create_timer: Callable[[float, Callable[[], None]], Any],
        destroy_timer: Callable[[Any], Any],
        active: Callable[[], Session | None],
        settings: Callable[[], Settings],
        silent_facts: Callable[[], list[str]],
        note: Callable[[Reply], None],
        in_executor: Callable[[Callable[[Any], None], Any], None],
    ) -> None:
        self._publisher = descriptions
        self._changes = changes
        self._create_timer = create_timer
        self._destroy_timer = destroy_timer
        self._active = active
        self._settings = settings
        self._silent_facts = silent_facts
        self._note = note
        self._in_executor = in_executor
        self._timer: Any = None
        self._under_way: dict[str, StandingRequest] = {}  # by camera; their end was not seen yet
        self._described: dict[str, object] = {}  # the message that was described last
        self._tracker = FactTracker()
        self._facts_since = 0.0  # time.monotonic()

    def start(self, period: float) -> None:
        """Describe every `period` seconds from now on; 0: never. Also changes the period."""
        self.stop()
        if period > 0.0:
            self._timer = self._create_timer(period, self._tick)

    def stop(self) -> None:
        """Describe no more."""
        if self._timer is not None:
            self._destroy_timer(self._timer)
            self._timer = None

    def forget(self) -> None:
        """Begin anew: what was true before the node was deactivated says nothing now."""
        self._tracker.clear()

    def facts_changed(self) -> None:
        """The parameters that name the facts have changed: ask the new ones, forget the others."""
        self._facts_since = time.monotonic()
        self._tracker.keep_only(self._settings().facts)
        self._described.clear()  # also about the image that there is, if no other comes
        if self._timer is not None:
            self._tick()

    def _tick(self) -> None:
        session = self._active()
        if session is None:
            return
        if random_model_refusal(session.worker.info, self._settings().allow_random_model):
            return
        for camera in session.cameras.values():
            request = self._under_way.get(camera.name)
            if request is not None and not self._leave_out_words(session, request):
                continue  # the model is slower than the period
            latest = camera.latest
            if latest is not None and latest.message is not self._described.get(camera.name):
                self._begin(session, camera)

    def _begin(self, session: Session, camera: Camera) -> None:
        settings = self._settings()
        question = Question(
            prompt=settings.description_prompt.strip() or None,
            camera=camera.name,
            max_new_tokens=settings.max_new_tokens,
            max_image_age=settings.max_image_age or math.inf,
            timeout=math.inf,
            describe=True,
        )
        priority = Priority.FACT if settings.facts_of(camera.name) else Priority.DESCRIPTION
        self._submit(session, session.describer.request(question, priority), self._begun)

    def _leave_out_words(self, session: Session, request: StandingRequest) -> bool:
        """End a description that waits behind questions once its facts are out; whether it was.

        While it waits, no further facts of its camera can be asked.
        """
        waits = request.seen is not None and request.turn is None
        if not waits or not self._settings().facts_of(request.question.camera):
            return False
        queue = session.worker.queue
        current = queue.current
        answers = bool(current) and current[0].priority is Priority.QUESTION
        if not (answers or queue.waiting(Priority.QUESTION)):
            return False
        request.end(request.canceled_reply())
        self._over(request)
        return True

    def _submit(
        self,
        session: Session,
        request: StandingRequest,
        on_end: Callable[[Session, StandingRequest, Reply], None],
    ) -> None:
        request.on_end = functools.partial(
            self._in_executor, functools.partial(on_end, session, request)
        )
        self._under_way[request.question.camera] = request
        try:
            session.worker.submit(request, limit=len(session.cameras))
        except (QueueFullError, QueueRefusesError):
            self._over(request)

    def _begun(self, session: Session, request: StandingRequest, reply: Reply) -> None:
        """The facts are known, or all of it."""
        observations = self._observe(request, reply)
        facts_alone = reply.answer is None and reply.status is Status.OK
        if not facts_alone or self._active() is not session:
            self._finished(observations, session, request, reply)
        elif request.facts != self._settings().facts_of(request.question.camera):
            self._over(request)  # those that have come meanwhile go before the words
            self._tick()
        else:
            self._submit(session, request.words(), functools.partial(self._finished, observations))

    def _finished(
        self,
        observations: Sequence[Observation],
        session: Session,
        request: StandingRequest,
        reply: Reply,
    ) -> None:
        """Publish, or remember why not."""
        self._over(request)
        seen = reply.compared or reply.frame
        if seen is not None and reply.status is not Status.CANCELED:
            self._described[reply.camera] = seen.message
        if reply.status is Status.OK and reply.answer is not None:
            self._publisher.publish(description_message(reply, observations))
        if reply.status not in _QUIET:
            self._note(reply)

    def _over(self, request: StandingRequest) -> None:
        camera = request.question.camera
        if self._under_way.get(camera) is request:
            del self._under_way[camera]

    def _observe(self, request: StandingRequest, reply: Reply) -> list[Observation]:
        """Settle the values of the facts that were asked, and publish those that are news."""
        if reply.status is not Status.OK or not reply.facts:
            return []
        self._tracker.frames = self._settings().fact_frames
        assert reply.frame is not None
        # Without its words, or for other facts, an image is asked again: it says nothing new.
        image = (reply.compared or reply.frame).number
        observations = [
            self._tracker.update(fact, probabilities, image)
            for fact, probabilities in zip(request.facts, reply.facts, strict=True)
            if probabilities
        ]
        for observation in observations:
            if observation.is_news:
                self._changes.publish(fact_changed_message(reply.frame, reply.camera, observation))
        return observations

    def why_facts_wait(self) -> str:
        """Why standing questions are not asked as promised, in one sentence; "": they are."""
        session = self._active()
        if session is None:
            return ""
        settings = self._settings()
        if silent := self._silent_facts():
            wanted = " and ".join(f"fact.{name}.question" for name in silent)
            return f"Not asked yet, as the question is missing: set {wanted}."
        if settings.facts and not settings.description_period:
            return "The facts are not asked, as description_period is 0: set it above 0."
        now = time.monotonic()
        for camera, request in self._under_way.items():
            # A description without facts may have waited for long when they were added.
            waited = now - max(request.arrived, self._facts_since)
            most = session.describer.patience(camera)
            if waited > most + OVERDUE:  # also if the words of an older image take that long
                return (
                    f"The facts of camera '{camera}' have waited for {waited:.1f} s, over "
                    f"{FACT_PATIENCE} description_periods ({most:g} s): the model has worked on "
                    f"its present answer for {session.worker.queue.busy_for():.1f} s. Ask for "
                    "fewer tokens, or raise description_period."
                )
        return ""
