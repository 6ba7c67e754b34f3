# SPDX-License-Identifier: Apache-2.0
"""From questions to replies, on the inference thread: image, scene, answer, and their times.

Nothing of ROS but the messages that pass through. A request comes with the frame of its turn: an
answer is about the newest image there was when the model was free. Questions about one frame with
one token budget come together and are answered together.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.inference.failures import Failures, empty_device_cache, random_model_refusal
from svd_vlm_ros.node.inference.freshness import incomplete, late_refusal
from svd_vlm_ros.node.inference.replies import Reply, RequestError, Status, refused
from svd_vlm_ros.node.inference.requests import FrameSource, Request, RosClock
from svd_vlm_ros.node.inference.scenes import SceneCache, SeenFrame, answer_stats

if TYPE_CHECKING:
    from svd_vlm_ros.engine import Answer, Scene, SceneEngine
    from svd_vlm_ros.node.cameras.frames import Frame
    from svd_vlm_ros.node.inference.questions import Question
    from svd_vlm_ros.node.parameters.settings import Settings


@dataclass
class Tally:
    """What was computed and what was saved; written by the inference thread."""

    batches: int = 0
    batched: int = 0  # questions in them
    repeated: int = 0  # descriptions


class Answerer:
    """Answers questions with an engine; keeps each camera's last scene for questions on it.

    `clock` gives ROS time, `settings()` the settings of the moment.
    `on_answer(question, frame, scene, answer)` hears of every complete answer, `on_memory()` that
    the device was out of memory several times in a row; both on the inference thread.
    """

    def __init__(
        self,
        cameras: Mapping[str, FrameSource],
        clock: RosClock,
        settings: Callable[[], Settings],
        on_answer: Callable[[Question, Frame, Scene, Answer], None] = lambda *_: None,
        on_memory: Callable[[], None] = lambda: None,
    ) -> None:
        self.scenes = SceneCache()
        self.failures = Failures(self.scenes.clear, on_memory)
        self.tally = Tally()
        self.cameras = cameras
        self.clock = clock
        self._settings = settings
        self._on_answer = on_answer

    def late(self, request: Request) -> Reply:
        """The reply to a request whose time is over."""
        question = request.question
        source = self.cameras[question.camera]
        refusal = late_refusal(
            question,
            source.latest,
            source.topic,
            request.turn is not None,
            self.clock.now().nanoseconds,
            time.monotonic(),
        )
        return refused(refusal, question.camera)

    def answer(self, engine: SceneEngine, batch: Sequence[Request]) -> list[Reply]:
        """Answer questions that share their key; what goes wrong becomes status and sentence."""
        if all(request.canceled for request in batch):
            return [request.canceled_reply() for request in batch]
        question, turn, settings = batch[0].question, batch[0].turn, self._settings()
        assert turn is not None
        refusal = random_model_refusal(engine.info, settings.allow_random_model) or turn.refusal
        if refusal is not None:
            return [refused(refusal, question.camera) for _ in batch]
        assert turn.frame is not None
        try:
            budget = question.visual_tokens or settings.budget
            seen = self.scenes.see(engine, question.camera, turn.frame, budget, settings)
        except RequestError as error:
            return [refused(error, question.camera) for _ in batch]
        except (Exception, SystemExit) as error:
            reply = self.failed(error, question)
            return [reply for _ in batch]
        if len(batch) > 1:
            with contextlib.suppress(Exception, SystemExit):
                return self._answer_together(engine, batch, seen)
            self.scenes.clear()
            empty_device_cache()  # each alone needs less, and only the guilty one fails
        return [  # but those that were answered before the batch failed
            request.result or self.answer_one(engine, request, seen) for request in batch
        ]

    def answer_one(self, engine: SceneEngine, request: Request, seen: SeenFrame) -> Reply:
        """Put one question to the engine, in the way that suits it."""
        question, scene, began = request.question, seen.scene, time.monotonic()
        prompt = question.prompt or ""  # only a description may be without
        try:
            if question.choices:
                answer = engine.choose(scene, prompt, question.choices)
            elif question.describe:
                answer = engine.describe(
                    scene,
                    question.prompt,
                    max_new_tokens=question.max_new_tokens,
                    should_stop=request.should_stop,
                )
            else:
                answer = engine.ask(
                    scene,
                    prompt,
                    max_new_tokens=question.max_new_tokens,
                    should_stop=request.should_stop,
                    on_text=request.on_text,
                )
        except UserError as error:
            return Reply(Status.BAD_REQUEST, str(error), question.camera, seen.frame)
        except (Exception, SystemExit) as error:
            return self.failed(error, question, seen.frame)
        return self.reply(engine, request, seen, answer, began)

    def _answer_together(
        self, engine: SceneEngine, batch: Sequence[Request], seen: SeenFrame
    ) -> list[Reply]:
        """One batch for the questions with choices, another for the others."""
        replies: dict[Request, Reply] = {}
        chosen = [request for request in batch if request.question.choices]
        free = [request for request in batch if not request.question.choices]
        began = time.monotonic()
        if chosen:
            asked = [(one.question.prompt or "", one.question.choices) for one in chosen]
            answers = engine.choose_many(seen.scene, asked)
            for request, answer in zip(chosen, answers, strict=True):
                replies[request] = self.reply(engine, request, seen, answer, began)
                request.end(replies[request])  # it need not wait for the others' text
        began = time.monotonic()
        if free:

            def hear(index: int, text: str) -> None:
                on_text = free[index].on_text
                if on_text is not None:
                    on_text(text)

            answers = engine.ask_many(
                seen.scene,
                [request.question.prompt or "" for request in free],
                max_new_tokens=[request.question.max_new_tokens for request in free],
                should_stop=lambda index: free[index].should_stop(),
                on_text=hear,
            )
            for request, answer in zip(free, answers, strict=True):
                replies[request] = self.reply(engine, request, seen, answer, began)
        self.tally.batches += 1
        self.tally.batched += len(batch)
        return [replies[request] for request in batch]

    def reply(
        self, engine: SceneEngine, request: Request, seen: SeenFrame, answer: Answer, began: float
    ) -> Reply:
        """The reply of an answer. `began`: when the question itself was put to the engine."""
        self.failures.none()
        question, frame, turn = request.question, seen.frame, request.turn
        assert turn is not None
        stats = answer_stats(
            engine,
            seen,
            answer,
            image_age=turn.image_age,
            queued=turn.at - request.arrived,
            waited=began - request.arrived,
        )
        if answer.finish_reason == "timeout":
            late = refused(incomplete(question), question.camera, frame)
            return replace(late, answer=answer, stats=stats)
        if answer.finish_reason in ("canceled", "interrupted"):
            return replace(request.canceled_reply(), frame=frame, answer=answer, stats=stats)
        self._on_answer(question, frame, seen.scene, answer)
        return Reply(Status.OK, "", question.camera, frame, answer, stats)

    def failed(self, error: BaseException, question: Question, frame: Frame | None = None) -> Reply:
        """The reply to a question that the engine failed on; frees memory for the next one."""
        return self.failures.reply(error, question, frame)
