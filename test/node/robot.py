# SPDX-License-Identifier: Apache-2.0
"""A robot for tests: the real node, real publishers and a real client, over DDS, in one process.

The node spins in a thread of its own, as it would in its process; the test's publishers and client
in another. Images are published again and again until the node has the newest, since their topics
are best effort.
"""

from __future__ import annotations

import array
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from svd_vlm_ros.action import StreamAnswer
from svd_vlm_ros.node.inference.worker import Worker
from svd_vlm_ros.node.perception_node import PerceptionNode
from svd_vlm_ros.srv import AskScene

TINY = {"model": "random:tiny", "precision": "fp32", "device": "cpu", "allow_random_model": True}
PATIENCE = 100.0  # s; a bound against hanging, not a demand
RELIABLE = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)


def wait_until(done: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait for a truthy value and return it."""
    end = time.monotonic() + seconds
    while not (value := done()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)
    return value


class Spinner:
    """Nodes in an executor that spins in a thread of its own."""

    def __init__(self, context: rclpy.Context) -> None:
        self.executor = SingleThreadedExecutor(context=context)
        self.thread = threading.Thread(target=self._spin)
        self._ended = False

    def start(self, *nodes: Any) -> None:
        for node in nodes:
            self.executor.add_node(node)
        self.thread.start()

    def _spin(self) -> None:
        while not self._ended:
            self.executor.spin_once(timeout_sec=0.1)

    def stop(self) -> None:
        self._ended = True
        self.executor.wake()
        self.thread.join()
        self.executor.shutdown()


class Stream:
    """A goal of `stream_answer` on its way; `heard` has its feedback so far.

    All calls go to the client on the thread of its `executor`: rclpy notes a request after it has
    sent it, and loses a response that another thread has taken before.
    """

    def __init__(self, client: ActionClient, executor: Any, goal: Any) -> None:
        self.heard: list[Any] = []
        self._executor = executor
        self._sent = self._call(
            lambda: client.send_goal_async(
                goal, feedback_callback=lambda message: self.heard.append(message.feedback)
            )
        )

    def _call(self, call: Callable[[], Any]) -> Any:
        task = self._executor.create_task(call)
        wait_until(task.done)
        return task.result()

    def cancel(self) -> Any:
        """Ask for the end; the server's reply."""
        wait_until(self._sent.done)
        future = self._call(self._sent.result().cancel_goal_async)
        wait_until(future.done)
        return future.result()

    def end(self) -> tuple[int, Any]:
        """Wait for the end: the goal's status of action_msgs, and StreamAnswer's result."""
        wait_until(self._sent.done)
        handle = self._sent.result()
        assert handle.accepted
        future = self._call(handle.get_result_async)
        wait_until(future.done)
        return future.result().status, future.result().result


class Robot:
    """One domain with a node `perception` and what talks to it."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.other = rclpy.create_node("other", context=self.context)
        self.client = self.other.create_client(AskScene, "ask_scene")
        self._others = Spinner(self.context)
        self._others.start(self.other)
        self._mine: Spinner | None = None
        self._publishers: dict[str, Any] = {}
        self._streams: ActionClient | None = None
        self._sent = 0
        self.node: PerceptionNode = None  # type: ignore[assignment]

    def start(
        self, wait: bool = True, options: dict[str, Any] | None = None, **parameters: Any
    ) -> PerceptionNode:
        """Start the node, by default with the tiny random model and without descriptions.

        `options` are the node's, such as `namespace`.
        """
        values = {**TINY, "description_period": 0.0, "max_image_age": 0.0, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.node = PerceptionNode(
            context=self.context, parameter_overrides=overrides, **options or {}
        )
        self._mine = Spinner(self.context)
        self._mine.start(self.node)
        if wait:
            wait_until(lambda: self.node.active or self.node.fatal)
            assert self.node.fatal is None
            service = f"{self.node.get_namespace()}/ask_scene".replace("//", "/")
            if self.client.srv_name != service:
                self.client = self.other.create_client(AskScene, service)
            wait_until(self.client.service_is_ready)
        return self.node

    @property
    def worker(self) -> Worker | None:
        """What owns the node's model, while the node is configured."""
        configured = self.node.configured
        return configured.worker if configured else None

    @property
    def cameras(self) -> dict[str, Any]:
        """The node's cameras, while it is configured."""
        configured = self.node.configured
        return configured.cameras if configured else {}

    def current(self) -> Any:
        """The task that the model is at, or None."""
        assert self.worker is not None
        return next(iter(self.worker.queue.current), None)

    @property
    def executor_thread(self) -> int | None:
        """Identity of the thread in which the node's callbacks run."""
        assert self._mine is not None
        return self._mine.thread.ident

    def publisher(self, topic: str, kind: Any = Image, qos: Any = RELIABLE) -> Any:
        if topic not in self._publishers:
            self._publishers[topic] = self.other.create_publisher(kind, topic, qos)
        return self._publishers[topic]

    def show(self, message: Any, camera: str = "camera") -> Any:
        """Publish a message until it is the newest that the node has of the camera; return it."""
        publisher = self.publisher(self.cameras[camera].topic.lstrip("/"), type(message))
        if message.header.stamp == Time():
            message.header.stamp = self.stamp()
        stamp = message.header.stamp

        def arrived() -> bool:
            latest = self.cameras[camera].latest
            if latest is not None and latest.message.header.stamp == stamp:
                return True
            publisher.publish(message)
            time.sleep(0.05)
            return False

        wait_until(arrived)
        return message

    def stamp(self) -> Time:
        """Now, and another time at each call."""
        return self.other.get_clock().now().to_msg()

    def send(self, question: str = "what is there?", **fields: Any) -> Any:
        """Send a request; its future."""
        return self.client.call_async(AskScene.Request(question=question, **fields))

    def ask(self, question: str = "what is there?", **fields: Any) -> AskScene.Response:
        """Send a request and wait for its response."""
        return self.result(self.send(question, **fields))

    def stream(self, question: str = "what is there?", **fields: Any) -> Stream:
        """Send a goal to `stream_answer`."""
        if self._streams is None:
            self._streams = ActionClient(self.other, StreamAnswer, "stream_answer")
            wait_until(self._streams.server_is_ready)
        goal = StreamAnswer.Goal(question=question, **fields)
        return Stream(self._streams, self._others.executor, goal)

    @staticmethod
    def result(future: Any) -> Any:
        wait_until(future.done)
        return future.result()

    def stop_node(self) -> None:
        if self._mine is not None:
            self.node.close()
            self._mine.stop()
            self.node.destroy_node()
            self._mine = None

    def stop(self) -> None:
        self.stop_node()
        self._others.stop()
        if self._streams is not None:
            self._streams.destroy()
        self.other.destroy_node()
        rclpy.shutdown(context=self.context)


def make_image(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """An image unlike all others, uint8 RGB [H, W, 3]."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    return np.kron(coarse, np.ones((height // 6, width // 8, 1), np.uint8))


def image_message(pixels: np.ndarray, frame_id: str = "", encoding: str = "rgb8") -> Image:
    """sensor_msgs/Image of [H, W, channels] bytes."""
    height, width = pixels.shape[:2]
    return Image(
        header=Header(frame_id=frame_id),
        height=height,
        width=width,
        encoding=encoding,
        step=pixels.nbytes // height,
        data=array.array("B", pixels.tobytes()),
    )


@functools.lru_cache(maxsize=1)
def reference_engine() -> Any:
    """The tiny random model again, to compare the node's answers with."""
    from svd_vlm_ros.engine import SceneEngine

    return SceneEngine.load("random:tiny", precision="fp32", device="cpu")
