# SPDX-License-Identifier: Apache-2.0
"""Replies as ROS messages: AskScene's response, SceneDescription, FactChanged, InferenceStats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from svd_vlm_ros.msg import FactChanged, InferenceStats, SceneDescription, SceneFact
from svd_vlm_ros.node.inference.replies import Reply, Stats

if TYPE_CHECKING:
    from svd_vlm_ros.facts import Observation
    from svd_vlm_ros.node.cameras.frames import Frame


def fill_response(response: Any, reply: Reply) -> Any:
    """AskScene's response or StreamAnswer's result; the header is the image's, never "now"."""
    response.status = int(reply.status)
    response.message = reply.sentence
    response.camera = reply.camera
    response.stats = stats_message(reply.stats)
    if reply.frame is not None:
        response.header = reply.frame.message.header
    if reply.answer is not None:
        response.answer = reply.answer.text
        response.confidence = float(reply.answer.confidence)
        response.probabilities = [float(value) for value in reply.answer.probabilities]
        response.finish_reason = reply.answer.finish_reason
    return response


def description_message(reply: Reply, observations: Iterable[Observation]) -> SceneDescription:
    """SceneDescription of a reply that has an answer."""
    assert reply.frame is not None
    assert reply.answer is not None
    return SceneDescription(
        header=reply.frame.message.header,
        camera=reply.camera,
        text=reply.answer.text,
        confidence=float(reply.answer.confidence),
        facts=[fact_message(observation) for observation in observations],
        stats=stats_message(reply.stats),
    )


def fact_message(observation: Observation) -> SceneFact:
    """SceneFact of what one image says."""
    fact = observation.fact
    return SceneFact(
        name=fact.name,
        question=fact.question,
        choices=list(fact.choices),
        probabilities=[float(value) for value in observation.probabilities],
        value=observation.value,
        changed=observation.changed,
    )


def fact_changed_message(frame: Frame, camera: str, observation: Observation) -> FactChanged:
    """FactChanged of an observation that is news."""
    return FactChanged(
        header=frame.message.header,
        camera=camera,
        fact=fact_message(observation),
        previous=observation.previous,
    )


def stats_message(stats: Stats) -> InferenceStats:
    """InferenceStats; the fields of `Stats` have the message's names."""
    return InferenceStats(**vars(stats))
