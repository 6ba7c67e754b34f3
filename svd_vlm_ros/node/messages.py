# SPDX-License-Identifier: Apache-2.0
"""Replies as ROS messages: AskScene's response, SceneDescription, and the stats that both carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svd_vlm_ros.msg import InferenceStats, SceneDescription
from svd_vlm_ros.node.requests import Reply, Stats

if TYPE_CHECKING:
    from svd_vlm_ros.node.parameters import Settings


def fill_response(response: Any, reply: Reply, settings: Settings | None) -> Any:
    """AskScene's response of a reply; the header is the used picture's own, never "now"."""
    response.status = int(reply.status)
    response.message = reply.sentence
    response.camera = reply.camera
    if reply.frame is not None and settings is not None:
        response.header = reply.frame.message.header
        response.stats = stats_message(reply.stats, settings)
    if reply.answer is not None:
        response.answer = reply.answer.text
        response.confidence = float(reply.answer.confidence)
        response.probabilities = [float(value) for value in reply.answer.probabilities]
        response.finish_reason = reply.answer.finish_reason
    return response


def description_message(reply: Reply, settings: Settings) -> SceneDescription:
    """SceneDescription of a reply that has an answer."""
    assert reply.frame is not None
    assert reply.answer is not None
    return SceneDescription(
        header=reply.frame.message.header,
        camera=reply.camera,
        text=reply.answer.text,
        confidence=float(reply.answer.confidence),
        stats=stats_message(reply.stats, settings),
    )


def stats_message(stats: Stats, settings: Settings) -> InferenceStats:
    """InferenceStats; the fields of `Stats` have the message's names."""
    return InferenceStats(
        model=settings.model,
        precision=settings.precision,
        selector=settings.selector,
        **vars(stats),
    )
