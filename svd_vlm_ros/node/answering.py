# SPDX-License-Identifier: Apache-2.0
"""From a question to its reply, on the inference thread: picture, scene, answer, and their times.

Nothing of ROS but the messages that pass through. The picture is taken here, when the model is free
for it, and not when the request came: an answer is about the newest picture there is.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.images import to_rgb
from svd_vlm_ros.node.inference import Job
from svd_vlm_ros.node.requests import (
    Frame,
    Question,
    Reply,
    RequestError,
    Stats,
    Status,
    choose_frame,
    image_age,
    late_refusal,
)

if TYPE_CHECKING:
    from svd_vlm_ros.engine import Answer, Scene, SceneEngine
    from svd_vlm_ros.node.parameters import Settings


class Camera(Protocol):
    """What an answer needs of a camera: its newest picture, and the topic to name in a sentence."""

    @property
    def latest(self) -> Frame | None: ...  # noqa: D102
    @property
    def topic(self) -> str: ...  # noqa: D102


class SceneCache:
    """The last scene of each camera, found again only for the very same message and token budget.

    At most one scene a camera is kept, since each holds the language model's cache of its picture
    in device memory (0.5 MB a token for a 7B model in 16 bits).
    """

    def __init__(self) -> None:
        self._scenes: dict[str, tuple[Frame, int | float | None, Scene]] = {}

    def find(self, camera: str, frame: Frame, budget: int | float | None) -> Scene | None:
        """The scene of this very message and budget, or None; an older scene is then let go."""
        kept = self._scenes.get(camera)
        if kept is not None and kept[0].message is frame.message and kept[1] == budget:
            return kept[2]
        self._scenes.pop(camera, None)
        return None

    def keep(self, camera: str, frame: Frame, budget: int | float | None, scene: Scene) -> None:
        """Remember the scene of a camera's newest picture in place of its last one."""
        self._scenes[camera] = (frame, budget, scene)

    def clear(self) -> None:
        """Let all scenes go."""
        self._scenes.clear()


class Answerer:
    """Answers questions with an engine; keeps each camera's last scene for questions on it.

    `ros_now()` gives ROS time in nanoseconds, `settings()` the settings of the moment.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        ros_now: Callable[[], int],
        settings: Callable[[], Settings],
    ) -> None:
        self.scenes = SceneCache()
        self._cameras = cameras
        self._ros_now = ros_now
        self._settings = settings

    def ready(self, question: Question) -> bool:
        """Whether the question can begin: with a picture, or to be refused at once."""
        try:
            return self.choose_frame(question) is not None
        except RequestError:
            return True

    def choose_frame(self, question: Question) -> Frame | None:
        """The newest picture that the question may use; see `requests.choose_frame`."""
        camera = self._cameras[question.camera]
        return choose_frame(
            question, camera.latest, camera.topic, self._ros_now(), time.monotonic()
        )

    def late(self, question: Question, job: Job[Reply]) -> Reply:
        """The reply to a question whose time is over."""
        camera = self._cameras[question.camera]
        refusal = late_refusal(question, camera.latest, camera.topic, job.began is not None)
        return refused(refusal, question.camera)

    def answer(self, engine: SceneEngine, job: Job[Reply], question: Question) -> Reply:
        """Answer one question; what goes wrong becomes the reply's status and sentence."""
        begun = time.monotonic()
        frame: Frame | None = None
        try:
            settings = self._settings()
            if engine.info.random_weights and not settings.allow_random_model:
                raise RequestError(
                    Status.ERROR,
                    f"Model '{engine.info.model}' has random weights, so that its answers mean "
                    "nothing: load a trained one such as scout, or set allow_random_model to have "
                    "them all the same.",
                )
            chosen = self.choose_frame(question)
            if chosen is None:
                raise late_refusal(question, None, self._cameras[question.camera].topic, False)
            age = image_age(chosen, self._ros_now(), begun)
            scene, reused, convert_seconds = self._scene(engine, chosen, question, settings)
            frame = chosen
            asked = time.monotonic()
            answer = self._ask(engine, scene, question, job)
        except RequestError as refusal:
            return refused(refusal, question.camera, frame)
        except UserError as error:
            return Reply(Status.BAD_REQUEST, str(error), question.camera, frame)
        except (Exception, SystemExit) as error:
            return self.failed(error, question, frame)
        seen = None if reused else scene.timings
        stats = Stats(
            visual_tokens_kept=scene.tokens_kept,
            visual_tokens_total=scene.tokens_total,
            prompt_tokens=answer.prompt_tokens,
            answer_tokens=answer.answer_tokens,
            image_age=age,
            queue_seconds=begun - job.submitted,
            encode_seconds=convert_seconds + (seen.preprocess + seen.encode if seen else 0.0),
            select_seconds=seen.select + seen.project if seen else 0.0,
            prefill_seconds=answer.timings.prefill + (seen.prefill if seen else 0.0),
            decode_seconds=answer.timings.decode,
            time_to_first_token=asked - job.submitted + answer.timings.first_token,
            scene_reused=reused,
            peak_device_memory=engine.peak_memory_bytes(),
        )
        if answer.finish_reason == "timeout":
            late = late_refusal(question, frame, "", True)
            return Reply(late.status, str(late), question.camera, frame, answer, stats)
        if answer.finish_reason in ("canceled", "interrupted"):
            return Reply(
                Status.CANCELED,
                "The node was deactivated or shut down while it answered: activate it and ask "
                "again.",
                question.camera,
                frame,
                answer,
                stats,
            )
        return Reply(Status.OK, "", question.camera, frame, answer, stats)

    def failed(self, error: BaseException, question: Question, frame: Frame | None = None) -> Reply:
        """The reply to a question that the engine failed on; frees memory for the next one."""
        detail = "".join(traceback.format_exception(error))
        traceback.clear_frames(error.__traceback__)  # their tensors would stay allocated
        self.scenes.clear()
        if _out_of_memory(error):
            _empty_device_cache()
            sentence = (
                "The device ran out of memory: ask with fewer visual_tokens, or load the model in "
                "a smaller precision such as int4."
            )
        else:
            reason = (str(error).splitlines() or [""])[0][:200]
            sentence = (
                f"The model failed on this request ({type(error).__name__}: {reason}): try again, "
                "and see the node's log if it happens again."
            )
        return Reply(Status.ERROR, sentence, question.camera, frame, detail=detail)

    def _scene(
        self, engine: SceneEngine, frame: Frame, question: Question, settings: Settings
    ) -> tuple[Scene, bool, float]:
        """The scene of this picture, whether it was kept before, and the seconds of conversion."""
        budget = question.visual_tokens or settings.budget
        scene = self.scenes.find(question.camera, frame, budget)
        if scene is not None:
            return scene, True, 0.0
        begun = time.monotonic()
        try:
            picture = to_rgb(frame.message, settings.max_image_pixels)
        except UserError as error:
            raise RequestError(
                Status.NO_IMAGE,
                f"The newest picture of camera '{question.camera}' cannot be read: {error}; check "
                "its driver.",
            ) from error
        converted = time.monotonic()
        try:
            scene = engine.see(picture, visual_tokens=budget)
        except UserError as error:
            raise RequestError(Status.NO_IMAGE, str(error)) from error
        self.scenes.keep(question.camera, frame, budget, scene)
        return scene, False, converted - begun

    @staticmethod
    def _ask(engine: SceneEngine, scene: Scene, question: Question, job: Job[Reply]) -> Answer:
        limits: dict[str, Any] = {
            "max_new_tokens": question.max_new_tokens,
            "should_stop": job.should_stop,
        }
        if question.describe:
            return engine.describe(scene, question.prompt, **limits)
        assert question.prompt is not None
        if question.choices:
            return engine.choose(scene, question.prompt, question.choices)
        return engine.ask(scene, question.prompt, **limits)


def refused(refusal: RequestError, camera: str = "", frame: Frame | None = None) -> Reply:
    """The reply that a refusal becomes."""
    return Reply(refusal.status, str(refusal), camera, frame)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _empty_device_cache() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
