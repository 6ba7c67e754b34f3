# SPDX-License-Identifier: Apache-2.0
"""The node's own looks at a camera, on the inference thread: standing questions and descriptions.

A look has two parts, so that what is urgent comes first: `begin` compares the picture with the last
one that was described, makes the scene, and asks all standing questions in one pass; `finish`
describes the same scene in words. Where nothing has changed, the last look is given out again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.answering import Answerer, Asked, Start, ask
from svd_vlm_ros.node.change import difference, thumbnail
from svd_vlm_ros.node.failures import canceled, refused
from svd_vlm_ros.node.jobs import Job
from svd_vlm_ros.node.requests import Reply, RequestError, Stats, Status
from svd_vlm_ros.node.scenes import Look

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from svd_vlm_ros.engine import Scene, SceneEngine
    from svd_vlm_ros.facts import Fact
    from svd_vlm_ros.node.settings import Settings


@dataclass(eq=False)
class Glance(Asked):
    """One look on its way: what is asked, and what is known so far.

    `facts` are those of the moment at which the look begins.
    """

    facts: tuple[Fact, ...] = ()
    look: Look | None = None
    small: np.ndarray | None = None  # thumbnail
    key: object = None  # of `_Described`
    chances: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class _Described:
    """The last complete look at a camera; `key`: all that its words depend on but the picture."""

    key: object
    small: np.ndarray
    reply: Reply
    at: float  # time.monotonic()


class Looker:
    """Describes pictures, and asks standing questions about them."""

    def __init__(self, answerer: Answerer, settings: Callable[[], Settings]) -> None:
        self._answerer = answerer
        self._settings = settings
        self._last: dict[str, _Described] = {}

    def forget(self) -> None:
        """Describe the next picture of each camera anew."""
        self._last.clear()

    def begin(self, engine: SceneEngine, jobs: Sequence[Job[Reply]]) -> list[Reply]:
        """The facts of a picture; without facts its description; or the last look again."""
        (job,) = jobs
        glance: Glance = job.subject
        question = glance.question
        try:
            self._answerer.refuse_random_model(engine)
            glance.frame = glance.frame or self._answerer.choose_frame(question)
            if job.canceled or glance.frame is None:
                return [canceled(glance)]
            glance.facts = self._settings().facts_of(question.camera)
            again = self._look(engine, glance)
            if again is not None:
                return [again]
            assert glance.look is not None
            if not glance.facts:
                return self.finish(engine, jobs)
            glance.chances = _ask_facts(engine, glance.look.scene, glance.facts)
        except RequestError as refusal:
            return [refused(refusal, question.camera)]
        except (Exception, SystemExit) as error:
            return [self._answerer.failed(error, question, glance.frame)]
        return [Reply(Status.OK, "", question.camera, glance.frame, facts=glance.chances)]

    def finish(self, engine: SceneEngine, jobs: Sequence[Job[Reply]]) -> list[Reply]:
        """Describe the picture of a look that was begun."""
        (job,) = jobs
        glance: Glance = job.subject
        look = glance.look
        assert look is not None
        start = Start(time.monotonic(), self._answerer.age(look.frame))
        try:
            answer = ask(engine, look.scene, glance.question, job.should_stop)
        except UserError as error:
            return [Reply(Status.BAD_REQUEST, str(error), glance.question.camera, look.frame)]
        except (Exception, SystemExit) as error:
            return [self._answerer.failed(error, glance.question, look.frame)]
        reply = self._answerer.reply(engine, job, look, answer, start, start.at)
        reply = replace(reply, facts=glance.chances)
        if reply.status is Status.OK and glance.small is not None:
            self._last[reply.camera] = _Described(glance.key, glance.small, reply, time.monotonic())
        return [reply]

    def _look(self, engine: SceneEngine, glance: Glance) -> Reply | None:
        """The last look's reply where nothing has changed; else the glance gets its scene."""
        frame, settings = glance.frame, self._settings()
        assert frame is not None
        camera, picture = glance.question.camera, None
        if settings.change_threshold > 0.0:
            picture = self._answerer.scenes.read(camera, frame, settings)
            glance.small = thumbnail(picture)
            glance.key = self._key(engine, glance)
            last = self._last.get(camera)
            if last is not None and self._still_true(glance, glance.small, last):
                self._answerer.tally.repeated += 1
                assert last.reply.frame is not None
                age = self._answerer.age(last.reply.frame)
                return replace(
                    last.reply, repeated=True, compared=frame, stats=_saved(last.reply.stats, age)
                )
        budget = glance.question.visual_tokens or settings.budget
        scenes = self._answerer.scenes
        glance.look = scenes.look(engine, camera, frame, budget, settings, picture)
        self._answerer.count(glance.look)
        return None

    def _still_true(self, glance: Glance, small: np.ndarray, last: _Described) -> bool:
        settings = self._settings()
        old = time.monotonic() - last.at
        return (
            last.key == glance.key
            and (settings.change_refresh == 0.0 or old < settings.change_refresh)
            and difference(last.small, small) < settings.change_threshold
        )

    def _key(self, engine: SceneEngine, glance: Glance) -> object:
        question = glance.question
        budget = question.visual_tokens or self._settings().budget
        return engine.info, budget, question.prompt, question.max_new_tokens, glance.facts


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
    """The stats of a look that was not made again."""
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
