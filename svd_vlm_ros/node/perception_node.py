# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `perception`: cameras in, answers and descriptions out.

    configure    subscribes to the cameras, then loads and warms the model on the inference thread
    activate     serves `ask_scene` and publishes `scene_description`
    deactivate   stops both; waiting requests get NOT_ACTIVE
    cleanup      ends the inference thread and frees the model's memory

With `autostart` (default) the node configures and activates itself, and its process ends with
status 1 where that fails. Transitions run beside the executor (see `lifecycle`), so state,
parameters and `ask_scene` stay served while a model loads; `configure` fails after `load_timeout`
seconds.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node import loading, parameters
from svd_vlm_ros.node.answering import Answerer, refused
from svd_vlm_ros.node.cameras import Camera, subscribe
from svd_vlm_ros.node.descriptions import Descriptions
from svd_vlm_ros.node.health import Health
from svd_vlm_ros.node.inference import InferenceThread
from svd_vlm_ros.node.lifecycle import UNCONFIGURED, BackgroundLifecycleNode
from svd_vlm_ros.node.parameters import Settings
from svd_vlm_ros.node.service import DEACTIVATED, AskService

if TYPE_CHECKING:
    from svd_vlm_ros.engine import EngineInfo
_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
FREE_WITHIN = 60.0  # s that cleanup waits for the model's memory
CLOSE_WITHIN = 1.5  # s that the end of the process waits for its threads
_POLL = 0.1  # s between two looks, while the model loads, whether the node is to end


@dataclass(frozen=True)
class Serving:
    """What exists while the node is configured."""

    cameras: dict[str, Camera]
    inference: InferenceThread
    answerer: Answerer


class PerceptionNode(BackgroundLifecycleNode):
    """Answers questions about cameras. Raises `UserError` where a parameter has no possible value.

    `serving` is set while the node is active. `fatal` says why the process shall end with status 1.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("perception", **options)
        self.serving: Serving | None = None
        self.fatal: str | None = None
        self.on_fatal: Callable[[], None] | None = None
        self._configured: Serving | None = None
        self._settings: Settings | None = None
        self._abandoned: list[InferenceThread] = []  # were asked to end, but are inside a library
        self.load_began = 0.0
        self._declaring = False
        self._closing = False
        parameters.declare(self)
        for sentence in parameters.unknown_parameters(self):
            self.get_logger().warning(sentence)
        self.add_pre_set_parameters_callback(parameters.whole_numbers_to_numbers)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._parameters_changed)
        self.descriptions = Descriptions(self)
        self.health = Health(self)
        self._ask = AskService(self)
        self._autostart = None
        if self.get_parameter("autostart").value:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._autostart = self.create_timer(0.0, self._start_once, clock=steady)

    # Lifecycle. These run on the thread of `lifecycle`, never on the executor's.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and load the model; on FAILURE the log says why."""
        try:
            self._configure()
            self.failure = ""
        except UserError as error:
            self.failure = str(error)
        except Exception as error:
            self.failure = (
                f"configure failed ({error!r}): this is a fault of the node, see its log."
            )
            self.get_logger().error(traceback.format_exc())
        if self.failure:
            if not self._closing:
                self.get_logger().fatal(self.failure)
            self._release(_POLL)
            return _FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to serve."""
        result = super().on_activate(state)
        self.serving = self._configured
        self.descriptions.start(self.settings.description_period)
        self.get_logger().info(f"Active: ask on {self._ask.service.service_name}.")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop serving; end what waits."""
        self._stop_serving()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the cameras."""
        self._release(FREE_WITHIN)
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything, from any state."""
        self._stop_serving()
        self._release(FREE_WITHIN)
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a fault within a transition."""
        self._stop_serving()
        self._release(FREE_WITHIN)
        return super().on_error(state)

    def close(self) -> None:
        """Stop serving and ask all threads to end; wait for them `CLOSE_WITHIN` seconds at most."""
        end = time.monotonic() + CLOSE_WITHIN
        self._closing = True
        self.join_transition(CLOSE_WITHIN)
        self._stop_serving()
        self._release(max(end - time.monotonic(), 0.1))

    def _configure(self) -> None:
        self._abandoned = [thread for thread in self._abandoned if thread.alive]
        if self._abandoned:
            raise UserError(
                "An earlier model is still being loaded or freed: configure again when that is "
                "over."
            )
        self._declaring = True
        try:
            parameters.declare_cameras(self)
        finally:
            self._declaring = False
        settings = self._settings = parameters.read(self)
        loading.check_model(settings.model)
        cameras = subscribe(self, settings.cameras)
        answerer = Answerer(cameras, self._ros_now, lambda: self.settings)
        self.get_logger().info(
            f"Loading {settings.model} in {settings.precision} on device {settings.device}."
        )
        self.load_began = time.monotonic()
        inference = InferenceThread(functools.partial(loading.load, settings))
        self._configured = Serving(cameras, inference, answerer)
        while not inference.wait_loaded(_POLL):
            if self._closing:
                raise UserError("The node ends while its model is being loaded.")
            if time.monotonic() - self.load_began > settings.load_timeout:
                raise UserError(
                    f"Model {settings.model} was not loaded within {settings.load_timeout:g} s: "
                    "raise the parameter load_timeout, or choose a smaller model."
                )
        if inference.load_error is not None:
            if not isinstance(inference.load_error, UserError):
                self.get_logger().error("".join(traceback.format_exception(inference.load_error)))
            raise UserError(loading.load_sentence(settings.model, inference.load_error))
        self._say_ready(settings)

    def _say_ready(self, settings: Settings) -> None:
        assert self.engine is not None
        seconds = time.monotonic() - self.load_began
        kept = (
            f"energy {settings.energy:g}" if settings.energy else f"{settings.visual_tokens} tokens"
        )
        self.get_logger().info(
            f"Loaded {settings.model} on {self.engine.device} in {seconds:.1f} s; "
            f"{settings.selector} keeps {kept} of {self.engine.visual_tokens_total}."
        )
        if self.engine.random_weights and not settings.allow_random_model:
            self.get_logger().warning(
                f"{settings.model} has random weights: it refuses to answer unless "
                "allow_random_model is set."
            )

    def _stop_serving(self) -> None:
        """Take no more requests, and end those that wait."""
        serving, self.serving = self.serving, None
        self.descriptions.stop()
        if serving is not None:
            self._end_waiting(serving.inference)

    @staticmethod
    def _end_waiting(inference: InferenceThread) -> None:
        for job in inference.drain():
            job.end(refused(DEACTIVATED))

    def _release(self, seconds: float) -> None:
        """Let cameras and model go; the latter may take a while: a library may be at work."""
        configured, self._configured = self._configured, None
        if configured is None:
            return
        for camera in configured.cameras.values():
            camera.destroy()
        inference = configured.inference
        if not inference.stop(seconds):
            self._abandoned.append(inference)
        self._end_waiting(inference)
        configured.answerer.scenes.clear()

    def _start_once(self) -> None:
        assert self._autostart is not None
        self.destroy_timer(self._autostart)
        self.start(self._fail)

    def _fail(self, sentence: str) -> None:
        if not self._closing:
            self.fatal = sentence
            if self.on_fatal is not None:
                self.on_fatal()

    # Parameters

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        try:
            parameters.check_change(changed, self._declaring or self.state == UNCONFIGURED)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _parameters_changed(self, changed: list[Parameter]) -> None:
        if self._configured is None:
            return  # read when the node is configured
        self._settings = parameters.read(self)
        if self.serving is not None and any(
            parameter.name == "description_period" for parameter in changed
        ):
            self.descriptions.start(self.settings.description_period)

    # What the service, the descriptions and the diagnostics ask

    @property
    def settings(self) -> Settings:
        """The parameters' values since the node was configured."""
        assert self._settings is not None
        return self._settings

    @property
    def settings_if_any(self) -> Settings | None:
        """The same, None before the node was first configured."""
        return self._settings

    @property
    def cameras(self) -> dict[str, Camera]:
        """The cameras that the node is subscribed to, by name."""
        return self._configured.cameras if self._configured else {}

    @property
    def engine(self) -> EngineInfo | None:
        """What the loaded engine says of itself."""
        return self._configured.inference.info if self._configured else None

    @property
    def inference(self) -> InferenceThread | None:
        """The thread that owns the model, while there is one."""
        return self._configured.inference if self._configured else None

    @property
    def refuses_random_model(self) -> bool:
        """Whether the model has random weights and may not answer with them."""
        return bool(
            self.engine and self.engine.random_weights and not self.settings.allow_random_model
        )

    def in_executor(self, callback: Callable[[Any], None], argument: Any) -> None:
        """Call `callback(argument)` on the executor's thread, from any thread."""
        executor = self.executor
        if executor is not None and not self._closing:
            executor.create_task(callback, argument)

    def _ros_now(self) -> int:
        return self.get_clock().now().nanoseconds
