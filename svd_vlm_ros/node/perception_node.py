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

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node import parameters
from svd_vlm_ros.node.action import StreamAction
from svd_vlm_ros.node.configuring import Configuration, Serving, end_waiting
from svd_vlm_ros.node.descriptions import Descriptions
from svd_vlm_ros.node.figures import Figures, Snapshot
from svd_vlm_ros.node.handling import Handler
from svd_vlm_ros.node.health import Health
from svd_vlm_ros.node.lifecycle import INACTIVE, UNCONFIGURED, BackgroundLifecycleNode
from svd_vlm_ros.node.live import LiveChanges
from svd_vlm_ros.node.overlay import Overlay
from svd_vlm_ros.node.service import AskService
from svd_vlm_ros.node.settings import Settings

if TYPE_CHECKING:
    from svd_vlm_ros.engine import EngineInfo
    from svd_vlm_ros.node.answering import Tally
    from svd_vlm_ros.node.cameras import Camera
    from svd_vlm_ros.node.inference import InferenceThread
    from svd_vlm_ros.node.requests import Reply

FREE_WITHIN = 60.0  # s that cleanup waits for the model's memory
CLOSE_WITHIN = 1.5  # s that the end of the process waits for its threads


class PerceptionNode(BackgroundLifecycleNode):
    """Answers questions about cameras. Raises `UserError` where a parameter has no possible value.

    `serving` is set while the node is active. `fatal` says why the process shall end with status 1.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("perception", **options)
        self.serving: Serving | None = None
        self.fatal: str | None = None
        self.on_fatal: Callable[[], None] | None = None
        self.closing = False
        self._stream: StreamAction | None = None
        self._settings: Settings | None = None
        self._declaring = False
        self._configuration = Configuration(self)
        parameters.declare(self)
        for sentence in parameters.unknown_parameters(self):
            self.get_logger().warning(sentence)
        self.add_parameter_hooks(
            parameters.adapted, self._check_parameters, self._parameters_changed
        )
        self.descriptions = Descriptions(self)
        self.figures = Figures()
        self.health = Health(self)
        self.overlay = Overlay(self)
        self.live = LiveChanges(self)
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
        self.failure = self._configuration.make()
        if self.failure:
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to serve, with another model or other cameras where their parameters changed."""
        if self._configuration.outdated:
            self._configuration.release(FREE_WITHIN)
            self.failure = self._configuration.make()
            if self.failure:
                return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        self.serving = self.configured
        self.descriptions.forget()
        self.descriptions.start(self.settings.description_period)
        self.get_logger().info(f"Active: ask on {self.resolve_service_name('ask_scene')}.")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop serving; end what waits."""
        self._stop_serving()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the cameras."""
        self._configuration.release(FREE_WITHIN)
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything, from any state."""
        self._stop_serving()
        self._configuration.release(FREE_WITHIN)
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a fault within a transition."""
        self._stop_serving()
        self._configuration.release(FREE_WITHIN)
        return super().on_error(state)

    def close(self) -> None:
        """Stop serving and ask all threads to end; wait for them `CLOSE_WITHIN` seconds at most."""
        end = time.monotonic() + CLOSE_WITHIN
        self.closing = True
        self.overlay.close()
        self.join_transition(CLOSE_WITHIN)
        self._stop_serving()
        self._configuration.release(max(end - time.monotonic(), 0.1))

    def destroy_node(self) -> None:
        """Destroy the node with all that it made; also one whose parameters were impossible."""
        if self._stream is not None:
            self._stream.destroy()
        super().destroy_node()

    def _stop_serving(self) -> None:
        """Take no more requests, and end those that wait."""
        serving, self.serving = self.serving, None
        self.descriptions.stop()
        if serving is not None:
            end_waiting(serving.inference)

    def _start_once(self) -> None:
        assert self._autostart is not None
        self.destroy_timer(self._autostart)
        self.start(self._fail)

    def _fail(self, sentence: str) -> None:
        if not self.closing:
            self.fatal = sentence
            if self.on_fatal is not None:
                self.on_fatal()

    # Parameters

    def set_parameters_atomically(self, parameter_list: Sequence[Parameter]) -> Any:
        """Set all of the parameters or none; see rclpy, whose sentence names none that is amiss."""
        why = parameters.why_undeclared(self, [each.name for each in parameter_list])
        if why:
            return SetParametersResult(successful=False, reason=why)
        return super().set_parameters_atomically(parameter_list)

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        try:
            active = not (self._declaring or self.state in (UNCONFIGURED, INACTIVE))
            parameters.check_change(changed, active)
            self.live.check(changed)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _parameters_changed(self, changed: list[Parameter]) -> None:
        if self._declaring:
            return
        if any(parameter.name == "facts" for parameter in changed):
            self._declare_named()
        if self.configured is None:
            return  # read when the node is configured
        try:
            self._settings = parameters.read(self)
        except UserError as error:  # e.g. another camera without a topic yet, while inactive
            self.get_logger().warning(str(error))
            return
        self.live.obey(changed)

    def read_parameters(self) -> Settings:
        """Declare what cameras and facts need, and take all values. Raises `UserError`."""
        self._declare_named()
        self._settings = parameters.read(self)
        return self._settings

    def _declare_named(self) -> None:
        self._declaring = True
        try:
            parameters.declare_named(self)
        finally:
            self._declaring = False

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
        configured = self.configured  # asked for once: the transitions' thread may change it
        return configured.cameras if configured else {}

    @property
    def engine(self) -> EngineInfo | None:
        """What the loaded engine says of itself."""
        inference = self.inference
        return inference.info if inference else None

    @property
    def inference(self) -> InferenceThread | None:
        """The thread that owns the model, while there is one."""
        configured = self.configured
        return configured.inference if configured else None

    @property
    def configured(self) -> Serving | None:
        """What exists while the node is configured."""
        return self._configuration.serving

    @property
    def load_began(self) -> float:
        """When loading the model began, in `time.monotonic()`."""
        return self._configuration.load_began

    @property
    def tally(self) -> Tally | None:
        """What was computed and what was saved since the node was configured, while it is."""
        configured = self.configured
        return configured.answerer.tally if configured else None

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
        engine = self.engine
        return bool(engine and engine.random_weights and not self.settings.allow_random_model)

    def in_executor(self, callback: Callable[[Any], None], argument: Any) -> None:
        """Call `callback(argument)` on the executor's thread, from any thread."""
        executor = self.executor
        if executor is not None and not self.closing:
            executor.create_task(callback, argument)

    def ros_now(self) -> int:
        """ROS time in nanoseconds."""
        return self.get_clock().now().nanoseconds
