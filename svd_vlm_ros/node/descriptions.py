# SPDX-License-Identifier: Apache-2.0
"""The topics `scene_description` and `fact_changed`: each camera's newest picture, once a period.

Standing questions wait behind questions, though not for ever, and a description behind those; a
question interrupts the description under way: it is left out, and the next period describes a newer
picture. None is made twice of one picture.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSDurabilityPolicy, QoSProfile

from svd_vlm_ros.facts import FactTracker, Observation
from svd_vlm_ros.msg import FactChanged, SceneDescription
from svd_vlm_ros.node.failures import canceled
from svd_vlm_ros.node.jobs import Job, Priority, QueueFullError
from svd_vlm_ros.node.looking import Glance
from svd_vlm_ros.node.messages import description_message, fact_changed_message
from svd_vlm_ros.node.requests import Question, Reply, Status

if TYPE_CHECKING:
    from rclpy.timer import Timer

    from svd_vlm_ros.engine import SceneEngine
    from svd_vlm_ros.node.cameras import Camera
    from svd_vlm_ros.node.configuring import Serving
    from svd_vlm_ros.node.perception_node import PerceptionNode

QUEUE = 10  # depth of the publishers
FACT_PATIENCE = 3  # periods that standing questions let other questions go first
_QUIET = (
    Status.STALE_IMAGE,
    Status.CANCELED,
)  # a question came first, or the diagnostics tell already
# Who subscribes later still hears how things stand.
_LATCHED = QoSProfile(depth=QUEUE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class Descriptions:
    """Describes the cameras of a node while it is active, and keeps its facts."""

    def __init__(self, node: PerceptionNode) -> None:
        self._node = node
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer: Timer | None = None
        self._under_way: dict[str, Glance] = {}  # by camera; those whose end was not seen yet
        self._words: dict[str, Job[Reply]] = {}  # by camera; facts are known, words are to follow
        self._described: dict[str, object] = {}  # the message that was described last
        self._tracker = FactTracker()
        self._publisher = node.create_lifecycle_publisher(
            SceneDescription, "scene_description", QUEUE
        )
        self._changes = node.create_lifecycle_publisher(FactChanged, "fact_changed", _LATCHED)

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

    def forget(self) -> None:
        """Begin anew: what was true before the node was deactivated says nothing now."""
        self._tracker.clear()

    def _tick(self) -> None:
        serving = self._node.serving
        if serving is None or self._node.refuses_random_model:
            return
        for camera in serving.cameras.values():
            latest = camera.latest
            if camera.name in self._under_way:
                self._leave_out_words(serving, camera.name)
                continue  # the model is slower than the period
            if latest is not None and latest.message is not self._described.get(camera.name):
                self._begin(serving, camera)

    def _begin(self, serving: Serving, camera: Camera) -> None:
        settings = self._node.settings
        question = Question(
            prompt=settings.description_prompt.strip() or None,
            camera=camera.name,
            max_new_tokens=settings.max_new_tokens,
            max_image_age=settings.max_image_age or math.inf,
            timeout=math.inf,
            describe=True,
        )
        facts = settings.facts_of(camera.name)
        glance = Glance(question, facts=facts)
        priority = Priority.FACT if facts else Priority.DESCRIPTION
        self._under_way[camera.name] = glance
        patience = FACT_PATIENCE * settings.description_period if facts else math.inf
        self._submit(serving, glance, priority, serving.looker.begin, self._begun, patience)

    def _leave_out_words(self, serving: Serving, camera: str) -> None:
        """End a description that questions have kept waiting for a period, once its facts are told.

        While it waited, no other facts of its camera could be asked.
        """
        job = self._words.get(camera)
        if job is None or job.began is not None:
            return
        current = serving.inference.current
        behind = current is not None and current.priority is Priority.QUESTION
        waited = time.monotonic() - job.submitted
        if behind and waited > self._node.settings.description_period:
            job.end(canceled(job.subject))

    def _submit(
        self,
        serving: Serving,
        glance: Glance,
        priority: Priority,
        work: Callable[[SceneEngine, Sequence[Job[Reply]]], Sequence[Reply]],
        on_end: Callable[[Serving, Glance, Reply], None],
        patience: float = math.inf,
    ) -> Job[Reply]:
        job = Job(
            work,
            priority=priority,
            failed=lambda error: serving.answerer.failed(error, glance.question),
            on_end=functools.partial(
                self._node.in_executor, functools.partial(on_end, serving, glance)
            ),
            patience=patience,
            subject=glance,
        )
        try:
            serving.inference.submit(job, limit=len(serving.cameras))
        except QueueFullError:
            self._over(glance)
        return job

    def _begun(self, serving: Serving, glance: Glance, reply: Reply) -> None:
        """On the executor's thread: the facts are known, or all of it."""
        observations = self._observe(glance, reply)
        if reply.answer is None and reply.status is Status.OK and self._node.serving is serving:
            self._words[glance.question.camera] = self._submit(
                serving,
                glance,
                Priority.DESCRIPTION,
                serving.looker.finish,
                functools.partial(self._finished, observations),
            )
        else:
            self._finished(observations, serving, glance, reply)

    def _finished(
        self,
        observations: Sequence[Observation],
        serving: Serving,
        glance: Glance,
        reply: Reply,
    ) -> None:
        """On the executor's thread: publish, or remember why not."""
        self._over(glance)
        seen = reply.compared or reply.frame
        if seen is not None and reply.status is not Status.CANCELED:
            self._described[reply.camera] = seen.message
        if reply.status is Status.OK and reply.answer is not None:
            self._publisher.publish(description_message(reply, observations))
        if reply.status not in _QUIET:
            self._node.note(reply, description=True)

    def _over(self, glance: Glance) -> None:
        camera = glance.question.camera
        if self._under_way.get(camera) is glance:
            del self._under_way[camera]
            self._words.pop(camera, None)

    def _observe(self, glance: Glance, reply: Reply) -> list[Observation]:
        """Settle the values of the facts that were asked, and tell of those that are news."""
        if reply.status is not Status.OK or not reply.facts:
            return []
        self._tracker.frames = self._node.settings.fact_frames
        observations = [
            self._tracker.update(fact, chances)
            for fact, chances in zip(glance.facts, reply.facts, strict=True)
            if chances
        ]
        assert reply.frame is not None
        for observation in observations:
            if observation.is_news:
                self._changes.publish(fact_changed_message(reply.frame, reply.camera, observation))
        return observations

    def facts_changed(self) -> None:
        """The parameters that name the facts have changed: forget the values of the others."""
        self._tracker.keep_only(self._node.settings.facts)
