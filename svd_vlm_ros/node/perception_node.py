# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `perception`: cameras in, answers, descriptions and facts out.

    configure    subscribes to the cameras, then loads and warms the model on the inference thread
    activate     serves `ask_scene` and `stream_answer`, publishes `scene_description` and
                 `fact_changed`; configures anew if a parameter has changed that asks for it
    deactivate   stops all of them; waiting requests get NOT_ACTIVE
    cleanup      ends the inference thread and frees the model's memory

With `autostart` (default) the node configures and activates itself, and its process ends with
status 1 if that fails. Transitions run beside the executor (see `lifecycle`), so state, parameters
and `ask_scene` stay served while a model loads; `configure` fails after `load_timeout` seconds.

The node composes: each part is given the functions that it uses, and none knows the node.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import Image

from svd_vlm_ros.msg import FactChanged, SceneDescription
from svd_vlm_ros.node.effects import ParameterEffects
from svd_vlm_ros.node.health.monitor import Health, Lifecycle
from svd_vlm_ros.node.interfaces import description_topics, overlay
from svd_vlm_ros.node.interfaces.action import StreamAction
from svd_vlm_ros.node.interfaces.description_topics import DescriptionTopics
from svd_vlm_ros.node.interfaces.handler import RequestHandler
from svd_vlm_ros.node.interfaces.overlay import Overlay
from svd_vlm_ros.node.interfaces.service import AskService
from svd_vlm_ros.node.parameters.settings import Settings
from svd_vlm_ros.node.parameters.store import Parameters
from svd_vlm_ros.node.session import Session, SessionKeeper
from svd_vlm_ros.ros.lifecycle import (
    CONFIGURING,
    INACTIVE,
    UNCONFIGURED,
    BackgroundLifecycleNode,
)

FREE_WITHIN = 60.0  # s that cleanup waits for the model's memory
CLOSE_WITHIN = 1.5  # s that the end of the process waits for its threads


class PerceptionNode(BackgroundLifecycleNode):
    """Answers questions about cameras. Raises `UserError` if a parameter has no possible value.

    Attributes:
        active: the session while the node is active.
        health: its figures and diagnostics.
        fatal: why the process shall end with status 1; `on_fatal` is called when it is set.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("perception", **options)
        self.active: Session | None = None
        self.fatal: str | None = None
        self.on_fatal: Callable[[], None] | None = None
        self._is_closing = False
        self._action: StreamAction | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._parameter_store = Parameters(self)
        self._compose()
        self._parameter_store.watch(
            is_active=lambda: self.state not in (UNCONFIGURED, INACTIVE),
            is_configured=lambda: self.configured is not None,
            check=self._effects.check,
            on_change=self._effects.obey,
        )
        self._autostart = None
        if self._parameter_store.value("autostart"):
            self._autostart = self.create_timer(0.0, self._start_once, clock=self._steady)

    def _compose(self) -> None:
        """Make the parts, each with what it uses."""
        parameters, logger = self._parameter_store, self.get_logger()
        create_timer = functools.partial(self.create_timer, clock=self._steady)
        self.health = Health(
            self,
            lifecycle=lambda: Lifecycle(self.state, self.failure),
            configured=lambda: self.configured,
            settings=lambda: parameters.if_read,
            queue_size=lambda: int(parameters.value("queue_size")),
        )
        self._descriptions = DescriptionTopics(
            self.create_lifecycle_publisher(
                SceneDescription, "scene_description", description_topics.DEPTH
            ),
            self.create_lifecycle_publisher(
                FactChanged, "fact_changed", description_topics.LATCHED
            ),
            create_timer=create_timer,
            destroy_timer=self.destroy_timer,
            active=lambda: self.active,
            settings=parameters.current,
            silent_facts=parameters.silent_facts,
            note=functools.partial(self.health.note, description=True),
            in_executor=self._in_executor,
        )
        self._overlay = Overlay(
            self.create_lifecycle_publisher(Image, overlay.TOPIC, overlay.QOS),
            lambda: int(parameters.value("max_image_pixels")),
            logger,
        )
        self._effects = ParameterEffects(
            parameters,
            configured=lambda: self.configured,
            on_period=self._change_period,
            on_facts=self._descriptions.facts_changed,
            on_fault=self.health.fault,
            in_executor=self._in_executor,
        )
        self._sessions = SessionKeeper(
            self,
            parameters,
            on_answer=self._overlay.offer,
            on_memory=lambda: self._in_executor(self._effects.lower_budget, None),
            on_fault=self.health.fault,
            is_closing=lambda: self._is_closing,
        )
        handler = RequestHandler(
            logger,
            create_timer=create_timer,
            destroy_timer=self.destroy_timer,
            active=lambda: self.active,
            settings=parameters.current,
            why_not_active=self._why_not_active,
            note=self.health.note,
            wake=self.wake,
        )
        self._service = AskService(self, handler)
        self._action = StreamAction(self, handler, self._in_executor)
        self.health.start(self._descriptions.why_facts_wait)

    @property
    def configured(self) -> Session | None:
        """The session while the node is configured; from the beginning, also while it loads."""
        return self._sessions.session

    @property
    def settings(self) -> Settings:
        """The parameters' values since the node was configured."""
        return self._parameter_store.current()

    # Lifecycle. These run on the thread of `lifecycle`, never on the executor's.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and load the model; on FAILURE the log says why."""
        if not self._open():
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to serve, with another model or other cameras if their parameters changed."""
        if self._sessions.is_outdated:
            self._sessions.close(FREE_WITHIN)
            if not self._open():
                return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        session = self.configured
        assert session is not None
        session.worker.queue.accept()
        self.active = session
        self._descriptions.forget()
        self._descriptions.start(self.settings.description_period)
        self.get_logger().info(f"Active: ask on {self.resolve_service_name('ask_scene')}.")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop serving; end what waits."""
        self._stop_serving()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the cameras."""
        self._sessions.close(FREE_WITHIN)
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything, from any state."""
        self._stop_serving()
        self._sessions.close(FREE_WITHIN)
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a fault within a transition."""
        self._stop_serving()
        self._sessions.close(FREE_WITHIN)
        return super().on_error(state)

    def close(self) -> None:
        """Stop serving and ask all threads to end; wait for them `CLOSE_WITHIN` seconds at most."""
        end = time.monotonic() + CLOSE_WITHIN
        self._is_closing = True
        self._overlay.close()
        self.join_transition(CLOSE_WITHIN)
        self._stop_serving()
        self._sessions.close(max(end - time.monotonic(), 0.1))

    def destroy_node(self) -> None:
        """Destroy the node with all that it made; also one whose parameters were impossible."""
        if self._action is not None:
            self._action.destroy()
        super().destroy_node()

    def _open(self) -> bool:
        """Make a session; whether that went well."""
        self.failure = self._sessions.open()
        session = self._sessions.session
        if session is None:
            return False
        self._effects.catch_up(session)
        return True

    def _stop_serving(self) -> None:
        """Take no more requests, and end those that wait."""
        session, self.active = self.active, None
        self._descriptions.stop()
        if session is not None:
            session.end_waiting()

    def _start_once(self) -> None:
        assert self._autostart is not None
        self.destroy_timer(self._autostart)
        self.start(self._fail)

    def _fail(self, sentence: str) -> None:
        if not self._is_closing:
            self.fatal = sentence
            if self.on_fatal is not None:
                self.on_fatal()

    def _why_not_active(self) -> str:
        """Why a request cannot be served now, and what to do, in one sentence."""
        state, name, session = self.state, self.get_fully_qualified_name(), self.configured
        if state == CONFIGURING:
            seconds = time.monotonic() - session.load_began if session is not None else 0.0
            return (
                f"The model is being loaded ({seconds:.0f} s so far): ask when the node is active."
            )
        if state in (UNCONFIGURED, INACTIVE) and self.failure:
            return f"The node has no model: {self.failure}"
        if state == UNCONFIGURED:
            return (
                f"The node is not configured: run 'ros2 lifecycle set {name} configure', then "
                "'activate'."
            )
        if state == INACTIVE:
            return f"The node is not active: run 'ros2 lifecycle set {name} activate'."
        return f"The node is {state}: ask again when it is active."

    # What parts share

    def _change_period(self, seconds: float) -> None:
        if self.active is not None:
            self._descriptions.start(seconds)

    def _in_executor(self, callback: Callable[[Any], None], argument: Any) -> None:
        """Call `callback(argument)` on the executor's thread, from any thread."""
        executor = self.executor
        if executor is not None and not self._is_closing:
            executor.create_task(callback, argument)
