# SPDX-License-Identifier: Apache-2.0
"""From questions to replies, on the inference thread: picture, scene, answer, and their times.

Nothing of ROS but the messages that pass through. The picture is taken here, when the model is free
for it, and not when the request came: an answer is about the newest picture there is. Questions
about one picture with one token budget come together and are answered together.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.failures import Failures, canceled, empty_device_cache, refused
from svd_vlm_ros.node.freshness import choose_frame, image_age, late_refusal
from svd_vlm_ros.node.jobs import Job
from svd_vlm_ros.node.requests import (
    Frame,
    Question,
    Reply,
    RequestError,
    Status,
)
from svd_vlm_ros.node.scenes import Look, SceneCache, answer_stats

if TYPE_CHECKING:
    from svd_vlm_ros.engine import Answer, Scene, SceneEngine
    from svd_vlm_ros.node.settings import Settings


class Camera(Protocol):
    """What an answer needs of a camera: its newest picture, and the topic to name in a sentence."""

    @property
    def latest(self) -> Frame | None: ...  # noqa: D102
    @property
    def topic(self) -> str: ...  # noqa: D102


@dataclass(eq=False)
class Asked:
    """A question on its way: who hears of its text, and the picture once it is chosen.

    `given_up`: whoever asked has canceled it.
    """

    question: Question
    on_text: Callable[[str], None] | None = None
    frame: Frame | None = None
    given_up: bool = False


@dataclass(frozen=True)
class Start:
    """When the work on a picture began, in `time.monotonic()`, and how old it was then in seconds.

    The age is taken once: seconds of a simulated clock are not those of this computer.
    """

    at: float
    image_age: float


@dataclass
class Tally:
    """What was computed and what was saved; written by the inference thread."""

    scenes_made: int = 0
    scenes_reused: int = 0
    batches: int = 0
    batched: int = 0  # questions in them
    repeated: int = 0  # descriptions
    out_of_memory: int = 0


class Answerer:
    """Answers questions with an engine; keeps each camera's last scene for questions on it.

    `ros_now()` gives ROS time in nanoseconds, `settings()` the settings of the moment.
    `on_answer(question, frame, scene, answer)` hears of every complete answer, `on_memory()` that
    the device was out of memory several times in a row; both on the inference thread.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        ros_now: Callable[[], int],
        settings: Callable[[], Settings],
        on_answer: Callable[[Question, Frame, Scene, Answer], None] = lambda *_: None,
        on_memory: Callable[[], None] = lambda: None,
    ) -> None:
        self.scenes = SceneCache()
        self.tally = Tally()
        self._cameras = cameras
        self._ros_now = ros_now
        self._settings = settings
        self._on_answer = on_answer
        self._failures = Failures(self.scenes, self.tally, on_memory)

    # Before the work

    def choose_frame(self, question: Question) -> Frame | None:
        """The newest picture that the question may use; see `requests.choose_frame`."""
        camera = self._cameras[question.camera]
        return choose_frame(
            question, camera.latest, camera.topic, self._ros_now(), time.monotonic()
        )

    def ready(self, asked: Asked) -> bool:
        """Whether the question can begin: with this picture, or to be refused at once."""
        try:
            asked.frame = self.choose_frame(asked.question)
        except RequestError:
            asked.frame = None
            return True
        return asked.frame is not None

    def key(self, asked: Asked) -> Hashable:
        """What questions share that can be answered together; None: nothing."""
        if asked.frame is None:
            return None
        question = asked.question
        return question.camera, asked.frame.number, question.visual_tokens

    def late(self, question: Question, job: Job[Reply]) -> Reply:
        """The reply to a question whose time is over."""
        camera = self._cameras[question.camera]
        refusal = late_refusal(
            question,
            camera.latest,
            camera.topic,
            job.began is not None,
            self._ros_now(),
            time.monotonic(),
        )
        return refused(refusal, question.camera)

    # The work

    def answer(self, engine: SceneEngine, jobs: Sequence[Job[Reply]]) -> list[Reply]:
        """Answer questions that share their key; what goes wrong becomes status and sentence."""
        begun = time.monotonic()
        if all(job.canceled for job in jobs):
            return [canceled(job.subject) for job in jobs]
        first: Asked = jobs[0].subject
        frame: Frame | None = None
        try:
            self.refuse_random_model(engine)
            frame = first.frame or self.choose_frame(first.question)
            if frame is None:
                raise self._nothing_to_see(first.question)
            start = Start(begun, self.age(frame))
            look = self.look(engine, first.question, frame)
        except RequestError as refusal:
            return [refused(refusal, first.question.camera) for _ in jobs]
        except (Exception, SystemExit) as error:
            reply = self.failed(error, first.question)
            return [reply for _ in jobs]
        if len(jobs) > 1:
            with contextlib.suppress(Exception, SystemExit):
                return self._answer_together(engine, jobs, look, start)
            self.scenes.clear()
            empty_device_cache()  # each alone needs less, and only the guilty one fails
        return [self._answer_one(engine, job, look, start) for job in jobs]

    def _answer_one(self, engine: SceneEngine, job: Job[Reply], look: Look, start: Start) -> Reply:
        if job.result is not None:  # answered before the batch failed
            return job.result
        asked: Asked = job.subject
        question, began = asked.question, time.monotonic()
        try:
            answer = ask(engine, look.scene, question, job.should_stop, asked.on_text)
        except UserError as error:
            return Reply(Status.BAD_REQUEST, str(error), question.camera, look.frame)
        except (Exception, SystemExit) as error:
            return self.failed(error, question, look.frame)
        return self.reply(engine, job, look, answer, start, began)

    def _answer_together(
        self, engine: SceneEngine, jobs: Sequence[Job[Reply]], look: Look, start: Start
    ) -> list[Reply]:
        """One batch for the questions with choices, another for the others."""
        replies: dict[int, Reply] = {}
        chosen = [index for index, job in enumerate(jobs) if job.subject.question.choices]
        free = [index for index, job in enumerate(jobs) if not job.subject.question.choices]
        began = time.monotonic()
        if chosen:
            questions = [jobs[index].subject.question for index in chosen]
            answers = engine.choose_many(look.scene, [(q.prompt, q.choices) for q in questions])
            for index, answer in zip(chosen, answers, strict=True):
                replies[index] = self.reply(engine, jobs[index], look, answer, start, began)
                jobs[index].end(replies[index])  # it need not wait for the others' text
        began = time.monotonic()
        if free:
            questions = [jobs[index].subject.question for index in free]

            def tell(index: int, text: str) -> None:
                on_text = jobs[free[index]].subject.on_text
                if on_text is not None:
                    on_text(text)

            answers = engine.ask_many(
                look.scene,
                [question.prompt for question in questions],
                max_new_tokens=[question.max_new_tokens for question in questions],
                should_stop=lambda index: jobs[free[index]].should_stop(),
                on_text=tell,
            )
            for index, answer in zip(free, answers, strict=True):
                replies[index] = self.reply(engine, jobs[index], look, answer, start, began)
        self.tally.batches += 1
        self.tally.batched += len(jobs)
        return [replies[index] for index in range(len(jobs))]

    def look(self, engine: SceneEngine, question: Question, frame: Frame) -> Look:
        """A scene of this picture with the question's budget. Raises `RequestError` NO_IMAGE."""
        settings = self._settings()
        budget = question.visual_tokens or settings.budget
        look = self.scenes.look(engine, question.camera, frame, budget, settings)
        self.count(look)
        return look

    def age(self, frame: Frame) -> float:
        """Seconds since a picture was taken, now."""
        return image_age(frame, self._ros_now(), time.monotonic())

    def count(self, look: Look) -> None:
        """Note whether a scene had to be made."""
        if look.reused:
            self.tally.scenes_reused += 1
        else:
            self.tally.scenes_made += 1

    def reply(
        self,
        engine: SceneEngine,
        job: Job[Reply],
        look: Look,
        answer: Answer,
        start: Start,
        asked: float,
    ) -> Reply:
        """The reply of an answer. `asked`: when the question itself was put to the engine."""
        self._failures.none()
        subject: Asked = job.subject
        question, frame = subject.question, look.frame
        stats = answer_stats(
            engine,
            look,
            answer,
            image_age=start.image_age,
            queued=start.at - job.submitted,
            waited=asked - job.submitted,
        )
        if answer.finish_reason == "timeout":
            late = RequestError(
                Status.TIMEOUT,
                f"The answer was not complete within {question.timeout:g} s: allow a longer "
                "timeout, or ask for fewer tokens.",
            )
            return Reply(late.status, str(late), question.camera, frame, answer, stats)
        if answer.finish_reason in ("canceled", "interrupted"):
            return replace(canceled(subject), frame=frame, answer=answer, stats=stats)
        self._on_answer(question, frame, look.scene, answer)
        return Reply(Status.OK, "", question.camera, frame, answer, stats)

    # What goes wrong

    def refuse_random_model(self, engine: SceneEngine) -> None:
        """Raise `RequestError` ERROR where the model has random weights and may not answer."""
        if engine.info.random_weights and not self._settings().allow_random_model:
            raise RequestError(
                Status.ERROR,
                f"Model '{engine.info.model}' has random weights, so that its answers mean "
                "nothing: load a trained one such as scout, or set allow_random_model to have "
                "them all the same.",
            )

    def failed(self, error: BaseException, question: Question, frame: Frame | None = None) -> Reply:
        """The reply to a question that the engine failed on; frees memory for the next one."""
        return self._failures.reply(error, question, frame)

    def _nothing_to_see(self, question: Question) -> RequestError:
        """The picture that was there a moment ago is too old by now."""
        camera = self._cameras[question.camera]
        return late_refusal(
            question, camera.latest, camera.topic, False, self._ros_now(), time.monotonic()
        )


def ask(
    engine: SceneEngine,
    scene: Scene,
    question: Question,
    should_stop: Callable[[], str | None],
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """One question, in the way that suits it."""
    if question.choices:
        assert question.prompt is not None
        return engine.choose(scene, question.prompt, question.choices)
    if question.describe:
        return engine.describe(
            scene, question.prompt, max_new_tokens=question.max_new_tokens, should_stop=should_stop
        )
    assert question.prompt is not None
    return engine.ask(
        scene,
        question.prompt,
        max_new_tokens=question.max_new_tokens,
        should_stop=should_stop,
        on_text=on_text,
    )
