# SPDX-License-Identifier: Apache-2.0
"""The topics `scene_description` and `fact_changed`: each camera's newest picture, once a period.

Standing questions wait behind questions, though not for ever, and a description behind those; a
question interrupts the description under way: it is left out, and the next period describes a newer
image. None is made twice of one image, unless other facts are to be asked about it.
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
from svd_vlm_ros.node import parameters
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
OVERDUE = 1.0  # s beyond that, after which the diagnostics say why they wait
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
        self._under_way: dict[str, Job[Reply]] = {}  # by camera; those whose end was not seen yet
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
            job = self._under_way.get(camera.name)
            if job is not None and not self._leave_out_words(serving, job):
                continue  # the model is slower than the period
            latest = camera.latest
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
        priority = Priority.FACT if settings.facts_of(camera.name) else Priority.DESCRIPTION
        self._submit(serving, Glance(question), priority, serving.looker.begin, self._begun)

    def _patience(self, camera: str) -> float:
        """Seconds that a look lets questions go first, by the parameters of this moment."""
        settings = self._node.settings
        if not settings.facts_of(camera):
            return math.inf
        return FACT_PATIENCE * settings.description_period

    def _leave_out_words(self, serving: Serving, job: Job[Reply]) -> bool:
        """End a description that waits behind questions once its facts are told; whether it was.

        While it waits, no further facts of its camera can be asked.
        """
        glance: Glance = job.subject
        camera = glance.question.camera
        told = glance.look is not None and job.began is None
        if not told or not self._node.settings.facts_of(camera):
            return False
        current = serving.inference.current
        asked = current is not None and current.priority is Priority.QUESTION
        if not (asked or serving.inference.waiting(Priority.QUESTION)):
            return False
        job.end(canceled(glance))
        self._over(glance)
        return True

    def _submit(
        self,
        serving: Serving,
        glance: Glance,
        priority: Priority,
        work: Callable[[SceneEngine, Sequence[Job[Reply]]], Sequence[Reply]],
        on_end: Callable[[Serving, Glance, Reply], None],
    ) -> None:
        camera = glance.question.camera
        told = glance.look is not None  # its facts; the words can wait
        job: Job[Reply] = Job(
            work,
            priority=priority,
            failed=lambda error: serving.answerer.failed(error, glance.question),
            on_end=functools.partial(
                self._node.in_executor, functools.partial(on_end, serving, glance)
            ),
            # Asked anew each time: facts that are added while it waits make it urgent.
            patience=lambda: math.inf if told else self._patience(camera),
            subject=glance,
        )
        self._under_way[camera] = job
        try:
            serving.inference.submit(job, limit=len(serving.cameras))
        except QueueFullError:
            self._over(glance)

    def _begun(self, serving: Serving, glance: Glance, reply: Reply) -> None:
        """On the executor's thread: the facts are known, or all of it."""
        observations = self._observe(glance, reply)
        told = reply.answer is None and reply.status is Status.OK
        if not told or self._node.serving is not serving:
            self._finished(observations, serving, glance, reply)
        elif glance.facts != self._node.settings.facts_of(glance.question.camera):
            self._over(glance)  # those that have come meanwhile go before the words
            self._tick()
        else:
            self._submit(
                serving,
                glance,
                Priority.DESCRIPTION,
                serving.looker.finish,
                functools.partial(self._finished, observations),
            )

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
        job = self._under_way.get(camera)
        if job is not None and job.subject is glance:
            del self._under_way[camera]

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
        """The parameters that name the facts have changed: ask the new ones, forget the others."""
        self._tracker.keep_only(self._node.settings.facts)
        self._described.clear()  # also about the image that there is, where no other comes
        if self._timer is not None:
            self._tick()

    def why_facts_wait(self) -> str:
        """Why standing questions are not asked as promised, in one sentence; "": they are."""
        node, serving = self._node, self._node.serving
        if serving is None:
            return ""
        settings = node.settings
        if silent := parameters.silent_facts(node):
            wanted = " and ".join(f"fact.{name}.question" for name in silent)
            return f"Not asked yet, for want of a question: set {wanted}."
        if settings.facts and not settings.description_period:
            return "The facts are not asked, as description_period is 0: set it above 0."
        now = time.monotonic()
        for camera, job in self._under_way.items():
            waited, most = now - job.submitted, self._patience(camera)
            if waited > most + OVERDUE:  # also where the words of an older image take that long
                current = serving.inference.current
                busy = f"{now - current.began:.1f} s" if current and current.began else "0 s"
                return (
                    f"The facts of camera '{camera}' wait since {waited:.1f} s, over "
                    f"{FACT_PATIENCE} description_periods ({most:g} s), as the model is at its "
                    f"present answer since {busy}: ask for fewer tokens, or raise "
                    "description_period."
                )
        return ""
