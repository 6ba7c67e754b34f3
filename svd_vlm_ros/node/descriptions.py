# SPDX-License-Identifier: Apache-2.0
"""The topic `scene_description`: each camera's newest picture in words, once a period.

A description waits behind every question, and a question interrupts the one under way: it is left
out, and the next period describes a newer picture. None is made twice of one picture.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from rclpy.clock import Clock, ClockType

from svd_vlm_ros.msg import SceneDescription
from svd_vlm_ros.node.inference import Job, Priority, QueueFullError
from svd_vlm_ros.node.messages import description_message
from svd_vlm_ros.node.requests import Question, Reply, Status

if TYPE_CHECKING:
    from rclpy.timer import Timer

    from svd_vlm_ros.node.cameras import Camera
    from svd_vlm_ros.node.perception_node import PerceptionNode, Serving

QUEUE = 10  # depth of the publisher
_QUIET = (
    Status.STALE_IMAGE,
    Status.CANCELED,
)  # a question came first, or the diagnostics tell already


class Descriptions:
    """Describes the cameras of a node while it is active."""

    def __init__(self, node: PerceptionNode) -> None:
        self._node = node
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer: Timer | None = None
        self._under_way: set[str] = set()  # cameras whose description `_finish` has not seen yet
        self._described: dict[str, object] = {}  # the message that was described last
        self._publisher = node.create_lifecycle_publisher(
            SceneDescription, "scene_description", QUEUE
        )

    def start(self, period: float) -> None:
        """Describe every `period` seconds from now on; 0: never. Also changes the period."""
        self.stop()
        if period > 0.0:
            self._timer = self._node.create_timer(period, self._tick, clock=self._clock)

    def stop(self) -> None:
        """Describe no more."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None

    def _tick(self) -> None:
        serving = self._node.serving
        if serving is None or self._node.refuses_random_model:
            return
        for camera in serving.cameras.values():
            latest = camera.latest
            if camera.name in self._under_way:
                continue  # the model is slower than the period
            if latest is not None and latest.message is not self._described.get(camera.name):
                self._describe(serving, camera)

    def _describe(self, serving: Serving, camera: Camera) -> None:
        node = self._node
        settings = node.settings
        question = Question(
            prompt=settings.description_prompt.strip() or None,
            camera=camera.name,
            max_new_tokens=settings.max_new_tokens,
            max_image_age=settings.max_image_age or math.inf,
            timeout=math.inf,
            describe=True,
        )
        job = Job(
            lambda engine, job: serving.answerer.answer(engine, job, question),
            priority=Priority.DESCRIPTION,
            failed=lambda error: serving.answerer.failed(error, question),
            on_end=functools.partial(
                node.in_executor, functools.partial(self._finish, camera.name)
            ),
            ready=lambda: serving.answerer.ready(question),
        )
        self._under_way.add(camera.name)
        try:
            serving.inference.submit(job, limit=len(serving.cameras))
        except QueueFullError:
            self._under_way.discard(camera.name)

    def _finish(self, camera: str, reply: Reply) -> None:
        """On the executor's thread: publish, or remember why not."""
        self._under_way.discard(camera)
        if reply.frame is not None and reply.status is not Status.CANCELED:
            self._described[camera] = reply.frame.message
        if reply.status is Status.OK:
            self._publisher.publish(description_message(reply, self._node.settings))
        if reply.status not in _QUIET:
            self._node.health.note(reply, description=True)
