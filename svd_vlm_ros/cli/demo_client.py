# SPDX-License-Identifier: Apache-2.0
"""The demo's side of the ROS graph: asks `/ask_scene`, and knows what each image shows.

The camera drives on while a question is answered. So an answer is judged by the scene of the
image whose stamp stands in the reply's header, which the camera publishes on `scout_truth`, and
not by what was seen when it was asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.msg import SceneDescription
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.srv import AskScene

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time

    from svd_vlm_ros.scout.questions import Question
    from svd_vlm_ros.scout.world import WorldScene

NODE = "perception"
KEPT_SCENES = 3000  # the newest: 10 minutes at 5 Hz
KEPT_IMAGES = 100
ASK_AGAIN = 10.0  # s without an answer

Stamp = tuple[int, int]
"""Seconds and nanoseconds of a header."""


class DemoClient:
    """An rclpy node that asks, listens and remembers. Use it in a `with`; raises `UserError`
    throughout.
    """

    def __init__(self, check_alive: Callable[[], None], keep_images: bool = False) -> None:
        self._check_alive = check_alive
        # Ctrl-C stays Python's: it has to reach the code that ends the other processes
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("svd_vlm_demo")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._scenes: dict[Stamp, WorldScene] = {}
        self._images: dict[Stamp, np.ndarray] = {}
        self._descriptions: list[SceneDescription] = []
        self._ask = self._node.create_client(AskScene, "ask_scene")
        self._state = self._node.create_client(GetState, f"{NODE}/get_state")
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._node.create_subscription(String, "scout_truth", self._take_truth, latched)
        self._node.create_subscription(
            SceneDescription, "scene_description", self._descriptions.append, 10
        )
        if keep_images:
            self._node.create_subscription(
                Image, "image", self._take_image, qos_profile_sensor_data
            )

    def __enter__(self) -> DemoClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def wait_until_active(self, seconds: float) -> None:
        """Return when the node serves and the first truth has come."""
        end = time.monotonic() + seconds
        self._wait(self._state.service_is_ready, end, "the node did not appear")
        while self._call(self._state, GetState.Request(), end).current_state.id != (
            State.PRIMARY_STATE_ACTIVE
        ):
            self._wait(None, time.monotonic() + 0.2)
        self._wait(self._ask.service_is_ready, end, "the service /ask_scene did not appear")
        self._wait(lambda: bool(self._scenes), end, "the camera published nothing on scout_truth")

    def newest(self, seconds: float) -> tuple[Stamp, WorldScene]:
        """After `seconds`, the newest scene that the camera published, with its image's stamp."""
        self._wait(None, time.monotonic() + seconds)
        return next(reversed(self._scenes.items()))

    def scene_at(self, stamp: Time, seconds: float = 2.0) -> WorldScene:
        """The scene that the image with this stamp shows."""
        key = (stamp.sec, stamp.nanosec)
        self._wait(
            lambda: key in self._scenes,
            time.monotonic() + seconds,
            f"the reply's header names no image of the camera (stamp {key[0]}.{key[1]:09d})",
        )
        return self._scenes[key]

    def image_at(self, stamp: Time) -> np.ndarray | None:
        """The image with this stamp, uint8 RGB [H, W, 3], if it has arrived."""
        return self._images.get((stamp.sec, stamp.nanosec))

    def ask(self, question: Question, not_before: Stamp, seconds: float) -> AskScene.Response:
        """Put one question through the real service, about an image that is not older than a
        stamp.
        """
        request = AskScene.Request(question=question.text)
        request.not_before.sec, request.not_before.nanosec = not_before
        return self._call(self._ask, request, time.monotonic() + seconds)

    def next_description(self, seconds: float) -> SceneDescription:
        """The next description that is published from now on."""
        self._descriptions.clear()
        self._wait(
            lambda: bool(self._descriptions),
            time.monotonic() + seconds,
            "no SceneDescription was published",
        )
        return self._descriptions[0]

    def _call(self, client: Any, request: Any, end: float) -> Any:
        """A service's answer. It is asked again if none comes for a while: a first call can get
        lost while the two programs discover each other (docs/node.md).
        """
        futures: list[rclpy.Future] = []
        while not any(future.done() for future in futures):
            if time.monotonic() >= end:
                raise UserError(f"The demo stopped: {client.srv_name} did not answer in time.")
            futures.append(client.call_async(request))
            self._wait(futures[-1].done, min(end, time.monotonic() + ASK_AGAIN))
        return next(future.result() for future in futures if future.done())

    def _wait(self, done: Callable[[], bool] | None, end: float, else_say: str = "") -> None:
        """Let messages in until `done` or `end` (monotonic seconds); then raise, if there is a
        sentence for it.
        """
        while not (done and done()):
            left = end - time.monotonic()
            if left <= 0:
                if else_say:
                    raise UserError(f"The demo stopped: {else_say} in time.")
                return
            self._check_alive()
            self._executor.spin_once(timeout_sec=min(left, 0.1))

    def _take_truth(self, message: String) -> None:
        truth = json.loads(message.data)
        stamp = truth["stamp"]
        self._scenes[stamp["sec"], stamp["nanosec"]] = drive(truth["t"], truth["seed"])
        _forget(self._scenes, KEPT_SCENES)

    def _take_image(self, message: Image) -> None:
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        image = rows[:, : message.width * 3].reshape(message.height, message.width, 3)
        self._images[message.header.stamp.sec, message.header.stamp.nanosec] = image
        _forget(self._images, KEPT_IMAGES)


def _forget(kept: dict[Stamp, Any], most: int) -> None:
    """Drop what is oldest."""
    while len(kept) > most:
        del kept[next(iter(kept))]
