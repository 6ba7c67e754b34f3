# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `perception`: cameras in, answers, descriptions and facts out.

    configure    subscribes to the cameras, then loads and warms the model on the inference thread
    activate     serves `ask_scene` and `stream_answer`, publishes `scene_description` and
                 `fact_changed`; configures anew where a parameter has changed that asks for it
    deactivate   stops all of them; waiting requests get NOT_ACTIVE
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
from svd_vlm_ros.node.action import StreamAction
from svd_vlm_ros.node.answering import Answerer, refused
from svd_vlm_ros.node.cameras import Camera, subscribe
from svd_vlm_ros.node.descriptions import Descriptions
from svd_vlm_ros.node.figures import Figures, Snapshot
from svd_vlm_ros.node.handling import DEACTIVATED, Handler
from svd_vlm_ros.node.health import Health
from svd_vlm_ros.node.inference import InferenceThread
from svd_vlm_ros.node.lifecycle import INACTIVE, UNCONFIGURED, BackgroundLifecycleNode
from svd_vlm_ros.node.live import LiveChanges
from svd_vlm_ros.node.looking import Looker
from svd_vlm_ros.node.overlay import Overlay
from svd_vlm_ros.node.service import AskService
from svd_vlm_ros.node.settings import Settings

if TYPE_CHECKING:
    from svd_vlm_ros.engine import EngineInfo
    from svd_vlm_ros.node.requests import Reply

_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
FREE_WITHIN = 60.0  # s that cleanup waits for the model's memory
CLOSE_WITHIN = 1.5  # s that the end of the process waits for its threads
_POLL = 0.1  # s between two looks, while the model loads, whether the node is to end


@dataclass(frozen=True)
class Serving:
    """What exists while the node is configured, and the settings that it was made with."""

    cameras: dict[str, Camera]
    inference: InferenceThread
    answerer: Answerer
    looker: Looker
    settings: Settings


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
        self.add_pre_set_parameters_callback(parameters.adapted)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._parameters_changed)
        self.descriptions = Descriptions(self)
        self.figures = Figures()
        self.health = Health(self)
        self.overlay = Overlay(self)
        self._live = LiveChanges(self)
        handler = Handler(self)
        self._ask = AskService(self, handler)
        self._stream = StreamAction(self, handler)
        self._autostart = None
        if self.get_parameter("autostart").value:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._autostart = self.create_timer(0.0, self._start_once, clock=steady)

    # Lifecycle. These run on the thread of `lifecycle`, never on the executor's.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and load the model; on FAILURE the log says why."""
        if not self._try_to_configure():
            return _FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to serve, with another model or other cameras where their parameters changed."""
        configured = self._configured
        if configured is None or self._is_outdated(configured):
            self._release(FREE_WITHIN)
            if not self._try_to_configure():
                return _FAILURE
        result = super().on_activate(state)
        self.serving = self._configured
        self.descriptions.forget()
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
        self.overlay.close()
        self.join_transition(CLOSE_WITHIN)
        self._stop_serving()
        self._release(max(end - time.monotonic(), 0.1))

    def destroy_node(self) -> None:
        """Destroy the node with all that it made."""
        self._stream.destroy()
        super().destroy_node()

    def _try_to_configure(self) -> bool:
        """Whether the node could be configured; if not, `failure` and the log say why."""
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
        return not self.failure

    def _is_outdated(self, configured: Serving) -> bool:
        """Whether parameters that only configuring obeys have changed since; they may be wrong."""
        try:
            settings = parameters.read(self)
        except UserError:
            return True  # configuring says so
        made = configured.settings
        return (settings.model_key, settings.cameras) != (made.model_key, made.cameras)

    def _configure(self) -> None:
        self._abandoned = [thread for thread in self._abandoned if thread.alive]
        if self._abandoned:
            raise UserError(
                "An earlier model is still being loaded or freed: configure again when that is "
                "over."
            )
        self._declaring = True
        try:
            parameters.declare_named(self)
        finally:
            self._declaring = False
        settings = self._settings = parameters.read(self)
        if silent := parameters.silent_facts(self):
            raise UserError(
                f"Fact '{silent[0]}' has no question: set the parameter fact.{silent[0]}.question."
            )
        loading.check_model(settings.model)
        cameras = subscribe(self, settings.cameras)
        answerer = Answerer(
            cameras,
            self._ros_now,
            lambda: self.settings,
            on_answer=self.overlay.offer,
            on_memory=lambda: self.in_executor(self._live.lower_budget, settings.model),
        )
        looker = Looker(answerer, lambda: self.settings)
        self.get_logger().info(
            f"Loading {settings.model} in {settings.precision} on device {settings.device}."
        )
        self.load_began = time.monotonic()
        inference = InferenceThread(functools.partial(loading.load, settings), self._crashed)
        inference.batch_size = settings.batch_size
        self._configured = Serving(cameras, inference, answerer, looker, settings)
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
        self._live.catch_up(settings)
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

    def _crashed(self, error: BaseException) -> None:
        """On the new inference thread: tell of the old one."""
        self.get_logger().error("".join(traceback.format_exception(error)))
        self.fault(
            f"The inference thread crashed ({error!r}) and was started anew: the request under way "
            "got ERROR, the others are being answered."
        )

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
            active = not (self._declaring or self.state in (UNCONFIGURED, INACTIVE))
            parameters.check_change(changed, active)
            self._live.check(changed)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _parameters_changed(self, changed: list[Parameter]) -> None:
        if self._declaring:
            return
        if any(parameter.name == "facts" for parameter in changed):
            self._declaring = True
            try:
                parameters.declare_named(self)
            finally:
                self._declaring = False
        if self._configured is None:
            return  # read when the node is configured
        try:
            self._settings = parameters.read(self)
        except UserError as error:  # e.g. another camera without a topic yet, while inactive
            self.get_logger().warning(str(error))
            return
        self._live.obey(changed)

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
    def configured(self) -> Serving | None:
        """What exists while the node is configured."""
        return self._configured

    @property
    def tally(self) -> Any:
        """What was computed and what was saved since the node was configured, while it is."""
        return self._configured.answerer.tally if self._configured else None

    def note(self, reply: Reply, description: bool = False) -> None:
        """Count how a request or a description ended, and log it."""
        self.figures.note(reply, description)
        if reply.repeated:
            self.health.note(reply, description=True, repeated=True)
        else:
            self.health.note(reply, description=description)

    def fault(self, sentence: str) -> None:
        """Tell of a fault of the node itself, in /diagnostics and the log; from any thread."""
        self.health.fault(sentence)

    def snapshot(self) -> Snapshot:
        """The node's figures now; see `figures`."""
        size = self.get_parameter("queue_size").value
        return self.figures.snapshot(self.inference, self.tally, size)

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
