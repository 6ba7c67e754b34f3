# SPDX-License-Identifier: Apache-2.0
"""What exists while the node is configured, its cameras and its model: made and closed here."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.cameras.subscriptions import Camera, subscribe
from svd_vlm_ros.node.inference import loader
from svd_vlm_ros.node.inference.answers import Answerer
from svd_vlm_ros.node.inference.descriptions import Describer
from svd_vlm_ros.node.inference.queue import TaskQueue
from svd_vlm_ros.node.inference.replies import RequestError, Status, refused
from svd_vlm_ros.node.inference.worker import Worker
from svd_vlm_ros.node.parameters.settings import Settings

if TYPE_CHECKING:
    from rclpy.node import Node

    from svd_vlm_ros.engine import Answer, Scene
    from svd_vlm_ros.node.cameras.frames import Frame
    from svd_vlm_ros.node.inference.questions import Question
    from svd_vlm_ros.node.parameters.store import Parameters

_POLL = 0.1  # s between two looks, while the model loads, whether the node is to end


@dataclass(frozen=True)
class Session:
    """What exists while the node is configured, and the settings that it was made with.

    `load_began` in `time.monotonic()`.
    """

    settings: Settings
    cameras: dict[str, Camera]
    worker: Worker
    answerer: Answerer
    describer: Describer
    load_began: float

    def end_waiting(self) -> None:
        """End all that waits for the model, ask what is under way to stop, take nothing more."""
        for task in self.worker.queue.drain():
            task.end(refused(deactivated()))

    def close(self, seconds: float) -> bool:
        """Let cameras and model go; False if a library is still at work after `seconds`."""
        for camera in self.cameras.values():
            camera.destroy()
        ended = self.worker.stop(seconds)
        self.end_waiting()
        self.answerer.scenes.clear()
        return ended


def deactivated() -> RequestError:
    """Why a request waited in vain."""
    return RequestError(
        Status.NOT_ACTIVE,
        "The node was deactivated before the model began: ask again when it is active.",
    )


class SessionKeeper:
    """Opens and closes the one session; on the thread of the transitions.

    `session` is set from the beginning of `open`, so that the cameras can be seen while the model
    loads.

    Args:
        node: makes the cameras' subscriptions.
        on_answer, on_memory: see `Answerer`.
        on_fault: hears, from any thread, of a fault of the node itself, as a sentence.
        is_closing: whether the process is to end.
    """

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        *,
        on_answer: Callable[[Question, Frame, Scene, Answer], None],
        on_memory: Callable[[], None],
        on_fault: Callable[[str], None],
        is_closing: Callable[[], bool],
    ) -> None:
        self.session: Session | None = None
        self._node = node
        self._logger: Any = node.get_logger()
        self._parameters = parameters
        self._on_answer = on_answer
        self._on_memory = on_memory
        self._on_fault = on_fault
        self._is_closing = is_closing
        self._abandoned: list[Worker] = []  # were asked to end, but are inside a library

    def open(self) -> str:
        """Subscribe to the cameras and load the model; "" or, as the log too, why it failed."""
        failure = ""
        try:
            self._open()
        except UserError as error:
            failure = str(error)
        except Exception as error:
            failure = f"configure failed ({error!r}): this is a fault of the node, see its log."
            self._logger.error(traceback.format_exc())
        if failure:
            if not self._is_closing():
                self._logger.fatal(failure)
            self.close(_POLL)
        return failure

    @property
    def is_outdated(self) -> bool:
        """Whether there is none, or parameters that only configuring obeys have changed since."""
        if self.session is None:
            return True
        try:
            settings = self._parameters.values()
        except UserError:
            return True  # configuring says so
        made = self.session.settings
        return (settings.model_key, settings.cameras) != (made.model_key, made.cameras)

    def close(self, seconds: float) -> None:
        """Let cameras and model go; the latter may take a while: a library may be at work."""
        session, self.session = self.session, None
        if session is not None and not session.close(seconds):
            self._abandoned.append(session.worker)

    def _open(self) -> None:
        self._abandoned = [worker for worker in self._abandoned if worker.alive]
        if self._abandoned:
            raise UserError(
                "An earlier model is still being loaded or freed: configure again when that is "
                "over."
            )
        settings = self._parameters.read()
        if silent := self._parameters.silent_facts():
            raise UserError(
                f"Fact '{silent[0]}' has no question: set the parameter fact.{silent[0]}.question."
            )
        loader.check_model(settings.model, settings.runtime)
        session = self.session = self._make(settings)
        self._wait_loaded(session)
        self._log_ready(session)

    def _make(self, settings: Settings) -> Session:
        """A session whose model begins to load."""
        queue = TaskQueue()
        cameras = subscribe(self._node, settings.cameras, queue.wake)
        answerer = Answerer(
            cameras,
            self._node.get_clock(),
            self._parameters.current,
            self._on_answer,
            self._on_memory,
        )
        self._logger.info(
            f"Loading {settings.model} in {settings.precision} on device {settings.device}."
        )
        began = time.monotonic()
        queue.batch_size = settings.batch_size
        worker = Worker(functools.partial(loader.load, settings), self._crashed, queue)
        describer = Describer(answerer, self._parameters.current)
        return Session(settings, cameras, worker, answerer, describer, began)

    def _wait_loaded(self, session: Session) -> None:
        settings, worker = session.settings, session.worker
        while not worker.wait_loaded(_POLL):
            if self._is_closing():
                raise UserError("The node ends while its model is being loaded.")
            if time.monotonic() - session.load_began > settings.load_timeout:
                raise UserError(
                    f"Model {settings.model} was not loaded within {settings.load_timeout:g} s: "
                    "raise the parameter load_timeout, or choose a smaller model."
                )
        error = worker.load_error
        if error is not None:
            if not isinstance(error, UserError):
                self._logger.error("".join(traceback.format_exception(error)))
            raise UserError(loader.load_sentence(settings.model, error))

    def _log_ready(self, session: Session) -> None:
        settings, engine = session.settings, session.worker.info
        assert engine is not None
        seconds = time.monotonic() - session.load_began
        kept = (
            f"energy {settings.energy:g}" if settings.energy else f"{settings.visual_tokens} tokens"
        )
        self._logger.info(
            f"Loaded {settings.model} in {engine.precision} on {engine.device} ({engine.runtime}) "
            f"in {seconds:.1f} s; "
            f"{settings.selector} keeps {kept} of {engine.visual_tokens_total}."
        )
        if engine.advice:
            self._logger.warning(engine.advice)
        if engine.random_weights and not settings.allow_random_model:
            self._logger.warning(
                f"{settings.model} has random weights: it refuses to answer unless "
                "allow_random_model is set."
            )

    def _crashed(self, error: BaseException) -> None:
        """On the inference thread: its failure goes to the log and the diagnostics."""
        self._logger.error("".join(traceback.format_exception(error)))
        self._on_fault(
            f"The inference thread crashed ({error!r}) and began anew: the request under way "
            "got ERROR, the others are being answered."
        )
