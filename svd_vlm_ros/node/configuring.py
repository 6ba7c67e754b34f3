# SPDX-License-Identifier: Apache-2.0
"""What a configured node has, its cameras and its model: made, and let go of again."""

from __future__ import annotations

import functools
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node import loading, parameters
from svd_vlm_ros.node.answering import Answerer
from svd_vlm_ros.node.cameras import Camera, subscribe
from svd_vlm_ros.node.failures import refused
from svd_vlm_ros.node.handling import DEACTIVATED
from svd_vlm_ros.node.inference import InferenceThread
from svd_vlm_ros.node.looking import Looker
from svd_vlm_ros.node.settings import Settings

if TYPE_CHECKING:
    from svd_vlm_ros.node.perception_node import PerceptionNode

_POLL = 0.1  # s between two looks, while the model loads, whether the node is to end


@dataclass(frozen=True)
class Serving:
    """What exists while the node is configured, and the settings that it was made with."""

    cameras: dict[str, Camera]
    inference: InferenceThread
    answerer: Answerer
    looker: Looker
    settings: Settings


class Configuration:
    """Makes and releases what a node needs to serve; on the thread of the transitions.

    `serving` is set from the beginning of `make`, so that the node's cameras can be seen while its
    model loads.
    """

    def __init__(self, node: PerceptionNode) -> None:
        self.serving: Serving | None = None
        self.load_began = 0.0
        self._node = node
        self._abandoned: list[InferenceThread] = []  # were asked to end, but are inside a library

    def make(self) -> str:
        """Subscribe to the cameras and load the model; "" or, as the log too, why it failed."""
        node, failure = self._node, ""
        try:
            self._make()
        except UserError as error:
            failure = str(error)
        except Exception as error:
            failure = f"configure failed ({error!r}): this is a fault of the node, see its log."
            node.get_logger().error(traceback.format_exc())
        if failure:
            if not node.closing:
                node.get_logger().fatal(failure)
            self.release(_POLL)
        return failure

    @property
    def outdated(self) -> bool:
        """Whether there is none, or parameters that only configuring obeys have changed since."""
        if self.serving is None:
            return True
        try:
            settings = parameters.read(self._node)
        except UserError:
            return True  # configuring says so
        made = self.serving.settings
        return (settings.model_key, settings.cameras) != (made.model_key, made.cameras)

    def release(self, seconds: float) -> None:
        """Let cameras and model go; the latter may take a while: a library may be at work."""
        serving, self.serving = self.serving, None
        if serving is None:
            return
        for camera in serving.cameras.values():
            camera.destroy()
        if not serving.inference.stop(seconds):
            self._abandoned.append(serving.inference)
        end_waiting(serving.inference)
        serving.answerer.scenes.clear()

    def _make(self) -> None:
        node = self._node
        self._abandoned = [thread for thread in self._abandoned if thread.alive]
        if self._abandoned:
            raise UserError(
                "An earlier model is still being loaded or freed: configure again when that is "
                "over."
            )
        settings = node.read_parameters()
        if silent := parameters.silent_facts(node):
            raise UserError(
                f"Fact '{silent[0]}' has no question: set the parameter fact.{silent[0]}.question."
            )
        loading.check_model(settings.model)
        cameras = subscribe(node, settings.cameras)
        answerer = Answerer(
            cameras,
            node.ros_now,
            lambda: node.settings,
            on_answer=node.overlay.offer,
            on_memory=lambda: node.in_executor(node.live.lower_budget, settings.model),
        )
        looker = Looker(answerer, lambda: node.settings)
        node.get_logger().info(
            f"Loading {settings.model} in {settings.precision} on device {settings.device}."
        )
        self.load_began = time.monotonic()
        inference = InferenceThread(functools.partial(loading.load, settings), self._crashed)
        inference.batch_size = settings.batch_size
        self.serving = Serving(cameras, inference, answerer, looker, settings)
        self._wait_loaded(inference, settings)
        node.live.catch_up(settings)
        self._say_ready(settings)

    def _wait_loaded(self, inference: InferenceThread, settings: Settings) -> None:
        while not inference.wait_loaded(_POLL):
            if self._node.closing:
                raise UserError("The node ends while its model is being loaded.")
            if time.monotonic() - self.load_began > settings.load_timeout:
                raise UserError(
                    f"Model {settings.model} was not loaded within {settings.load_timeout:g} s: "
                    "raise the parameter load_timeout, or choose a smaller model."
                )
        error = inference.load_error
        if error is not None:
            if not isinstance(error, UserError):
                self._node.get_logger().error("".join(traceback.format_exception(error)))
            raise UserError(loading.load_sentence(settings.model, error))

    def _say_ready(self, settings: Settings) -> None:
        assert self.serving is not None
        engine, logger = self.serving.inference.info, self._node.get_logger()
        assert engine is not None
        seconds = time.monotonic() - self.load_began
        kept = (
            f"energy {settings.energy:g}" if settings.energy else f"{settings.visual_tokens} tokens"
        )
        logger.info(
            f"Loaded {settings.model} in {engine.precision} on {engine.device} in {seconds:.1f} s; "
            f"{settings.selector} keeps {kept} of {engine.visual_tokens_total}."
        )
        if engine.advice:
            logger.warning(engine.advice)
        if engine.random_weights and not settings.allow_random_model:
            logger.warning(
                f"{settings.model} has random weights: it refuses to answer unless "
                "allow_random_model is set."
            )

    def _crashed(self, error: BaseException) -> None:
        """On the inference thread: tell of its failure."""
        self._node.get_logger().error("".join(traceback.format_exception(error)))
        self._node.fault(
            f"The inference thread crashed ({error!r}) and began anew: the request under way "
            "got ERROR, the others are being answered."
        )


def end_waiting(inference: InferenceThread) -> None:
    """End all that waits for the model, and ask what is under way to stop."""
    for job in inference.drain():
        job.end(refused(DEACTIVATED))
