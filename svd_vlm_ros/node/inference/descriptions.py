# SPDX-License-Identifier: Apache-2.0
"""Standing questions and descriptions of a camera's image, on the inference thread.

There are two parts, so that what is urgent comes first: `begin` compares the image with the last
one that was described, makes the scene, and asks all standing questions in one pass; `finish`
describes the same scene in words. If nothing has changed, the last description is given out again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.cameras.thumbnails import difference, thumbnail
from svd_vlm_ros.node.inference.answers import Answerer
from svd_vlm_ros.node.inference.failures import random_model_refusal
from svd_vlm_ros.node.inference.freshness import image_age
from svd_vlm_ros.node.inference.replies import Reply, RequestError, Stats, Status, refused
from svd_vlm_ros.node.inference.requests import Request
from svd_vlm_ros.node.inference.scenes import SeenFrame
from svd_vlm_ros.node.inference.tasks import Priority, Turn

if TYPE_CHECKING:
    import numpy as np

    from svd_vlm_ros.engine import EngineInfo, Scene, SceneEngine
    from svd_vlm_ros.facts import Fact
    from svd_vlm_ros.node.cameras.frames import Frame
    from svd_vlm_ros.node.inference.questions import Question
    from svd_vlm_ros.node.parameters.settings import Settings

FACT_PATIENCE = 3  # periods that standing questions let other questions go first


class StandingRequest(Request):
    """One description on its way, with the camera's standing questions before its words.

    Its first reply may be that of the facts alone; the words are then a request of their own, made
    by `words`.

    Attributes:
        facts: those of the moment at which the work begins.
        seen: the scene; None until it is made.
        thumbnail: the small copy of the image, if it is compared with others.
        key: all that the words depend on but the image.
        probabilities: of each fact's choices.
    """

    def __init__(
        self, question: Question, priority: Priority, answerer: Answerer, describer: Describer
    ) -> None:
        super().__init__(priority=priority)
        self.question, self._server = question, answerer
        self._source = answerer.cameras[question.camera]
        self._describer = describer
        self.facts: tuple[Fact, ...] = ()
        self.seen: SeenFrame | None = None
        self.thumbnail: np.ndarray | None = None
        self.key: object = None
        self.probabilities: tuple[tuple[float, ...], ...] = ()

    def words(self) -> StandingRequest:
        """The request for the words, once the facts are known."""
        rest = self._describer.request(self.question, Priority.DESCRIPTION)
        rest.facts, rest.seen, rest.thumbnail = self.facts, self.seen, self.thumbnail
        rest.key, rest.probabilities = self.key, self.probabilities
        return rest

    @property
    def rank(self) -> Priority:
        """Its priority; once its patience is over, that of a question, before all that wait.

        By the parameters of this moment: facts that are added while it waits make it urgent. Words
        can wait.
        """
        if self.seen is None:
            patience = self._describer.patience(self.question.camera)
            if time.monotonic() - self.arrived > patience:
                return min(self.priority, Priority.QUESTION)
        return self.priority

    def turn_at(self, now: float) -> Turn | None:
        """The camera's newest frame; for the words, the one whose facts are known."""
        if self.seen is not None:
            frame = self.seen.frame
            return Turn(now, frame, image_age(frame, self._server.clock.now().nanoseconds, now))
        turn = super().turn_at(now)
        return turn and replace(turn, key=None)

    def work(self, engine: SceneEngine, batch: Sequence[Request]) -> list[Reply]:  # type: ignore[override]
        """Ask the facts, or describe; no two are done together."""
        if self.seen is None:
            return [self._describer.begin(engine, self)]
        return [self._describer.finish(engine, self, self.seen)]


@dataclass(frozen=True, eq=False)
class _Described:
    """The last complete description of a camera's image."""

    key: object
    thumbnail: np.ndarray
    reply: Reply
    at: float  # time.monotonic()


class Describer:
    """Describes images, and asks standing questions about them."""

    def __init__(self, answerer: Answerer, settings: Callable[[], Settings]) -> None:
        self._answerer = answerer
        self._settings = settings
        self._last: dict[str, _Described] = {}

    def request(self, question: Question, priority: Priority) -> StandingRequest:
        """A description that is to be made."""
        return StandingRequest(question, priority, self._answerer, self)

    def patience(self, camera: str) -> float:
        """Seconds that the camera's facts let questions go first; without facts, for ever."""
        settings = self._settings()
        if not settings.facts_of(camera):
            return math.inf
        return FACT_PATIENCE * settings.description_period

    def forget(self) -> None:
        """Describe the next image of each camera anew."""
        self._last.clear()

    def begin(self, engine: SceneEngine, request: StandingRequest) -> Reply:
        """The facts of an image; without facts its description; or the last description again."""
        question, turn = request.question, request.turn
        assert turn is not None
        allowed = self._settings().allow_random_model
        refusal = random_model_refusal(engine.info, allowed) or turn.refusal
        if refusal is not None:
            return refused(refusal, question.camera)
        if request.canceled or turn.frame is None:
            return request.canceled_reply()
        try:
            request.facts = self._settings().facts_of(question.camera)
            seen = self._see(engine, request, turn.frame)
            if isinstance(seen, Reply):
                return seen
            request.seen = seen
            if not request.facts:
                return self.finish(engine, request, seen)
            request.probabilities = _ask_facts(engine, seen.scene, request.facts)
        except RequestError as error:
            return refused(error, question.camera)
        except (Exception, SystemExit) as error:
            return self._answerer.failed(error, question, turn.frame)
        return Reply(Status.OK, "", question.camera, turn.frame, facts=request.probabilities)

    def finish(self, engine: SceneEngine, request: StandingRequest, seen: SeenFrame) -> Reply:
        """Describe an image in words."""
        reply = self._answerer.answer_one(engine, request, seen)
        reply = replace(reply, facts=request.probabilities)
        if reply.status is Status.OK and request.thumbnail is not None:
            self._last[reply.camera] = _Described(
                request.key, request.thumbnail, reply, time.monotonic()
            )
        return reply

    def _see(
        self, engine: SceneEngine, request: StandingRequest, frame: Frame
    ) -> SeenFrame | Reply:
        """The scene of the image; the reply of the last description if nothing has changed."""
        settings, camera = self._settings(), request.question.camera
        scenes, image = self._answerer.scenes, None
        budget = request.question.visual_tokens or settings.budget
        if settings.change_threshold > 0.0:
            image = scenes.read(camera, frame, settings)
            small = request.thumbnail = thumbnail(image)
            request.key = _key(engine.info, budget, request)
            last = self._last.get(camera)
            if (
                last is not None
                and last.key == request.key
                and _is_recent(last, settings)
                and difference(last.thumbnail, small) < settings.change_threshold
            ):
                return self._repeated(last.reply, frame)
        return scenes.see(engine, camera, frame, budget, settings, image)

    def _repeated(self, reply: Reply, frame: Frame) -> Reply:
        """The last description again, as `frame` shows nothing new."""
        self._answerer.tally.repeated += 1
        assert reply.frame is not None
        age = image_age(reply.frame, self._answerer.clock.now().nanoseconds, time.monotonic())
        return replace(reply, repeated=True, compared=frame, stats=_saved(reply.stats, age))


def _is_recent(last: _Described, settings: Settings) -> bool:
    refresh = settings.change_refresh
    return refresh == 0.0 or time.monotonic() - last.at < refresh


def _key(engine: EngineInfo, budget: float, request: StandingRequest) -> object:
    question = request.question
    return engine, budget, question.prompt, question.max_new_tokens, request.facts


def _ask_facts(
    engine: SceneEngine, scene: Scene, facts: Sequence[Fact]
) -> tuple[tuple[float, ...], ...]:
    """The probabilities of each fact's choices, () of one that this model cannot be asked."""
    try:
        answers = engine.choose_many(scene, [(fact.question, fact.choices) for fact in facts])
        return tuple(answer.probabilities for answer in answers)
    except UserError:
        if len(facts) == 1:
            return ((),)
    return tuple(_ask_facts(engine, scene, [fact])[0] for fact in facts)


def _saved(stats: Stats, age: float) -> Stats:
    """The stats of a description that was not made again."""
    return Stats(
        model=stats.model,
        precision=stats.precision,
        selector=stats.selector,
        visual_tokens_kept=stats.visual_tokens_kept,
        visual_tokens_total=stats.visual_tokens_total,
        image_age=age,
        scene_reused=True,
        peak_device_memory=stats.peak_device_memory,
    )
