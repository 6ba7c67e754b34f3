# SPDX-License-Identifier: Apache-2.0
"""The node's figures: what was answered, how long it took, what was saved."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from svd_vlm_ros.node.inference.replies import Reply, Status
from svd_vlm_ros.node.inference.tasks import Priority

if TYPE_CHECKING:
    from svd_vlm_ros.node.session import Session

KEPT = 500  # answers over which the percentiles go
STAGES = ("queue", "encode", "select", "prefill", "decode")


@dataclass(frozen=True)
class Snapshot:
    """The figures of one moment; counts since the node's start or, of the model, since configure.

    `latency`: for each of `STAGES` and "first_token" the 50th, 95th and 99th percentile in seconds
    over the last answers to questions; empty before the first. `busy_for`: seconds that the model
    has been at its task. `batched`: questions that were answered together, in `batches`.
    """

    waiting: int = 0
    queue_size: int = 0
    busy_for: float = 0.0
    by_status: dict[str, int] = field(default_factory=dict)
    described: int = 0
    repeated: int = 0
    scenes_made: int = 0
    scenes_reused: int = 0
    batches: int = 0
    batched: int = 0
    out_of_memory: int = 0
    restarts: int = 0
    tokens_kept: int = 0
    last_error: str = ""
    latency: dict[str, tuple[float, float, float]] = field(default_factory=dict)


class Figures:
    """Collects them; `note` and `snapshot` are the executor's."""

    def __init__(self) -> None:
        self._by_status: Counter[str] = Counter()
        self._described = self._repeated = self._tokens_kept = 0
        self._last_error = ""
        self._took: deque[tuple[float, ...]] = deque(maxlen=KEPT)

    def note(self, reply: Reply, description: bool = False) -> None:
        """Take in how a request, or one of the node's own descriptions, ended."""
        stats = reply.stats
        if reply.status is Status.ERROR:
            self._last_error = reply.sentence
        if stats.visual_tokens_kept:
            self._tokens_kept = stats.visual_tokens_kept
        if description:
            self._repeated += reply.repeated
            self._described += reply.status is Status.OK and not reply.repeated
            return
        self._by_status[reply.status.name] += 1
        if reply.status is Status.OK:
            took = [getattr(stats, f"{stage}_seconds") for stage in STAGES]
            self._took.append((*took, stats.time_to_first_token))

    def snapshot(self, session: Session | None, queue_size: int) -> Snapshot:
        """The figures now; `session` while the node is configured."""
        own = Snapshot(
            queue_size=queue_size,
            by_status=dict(self._by_status),
            described=self._described,
            repeated=self._repeated,
            tokens_kept=self._tokens_kept,
            last_error=self._last_error,
            latency=self._latency(),
        )
        if session is None:
            return own
        queue, answerer = session.worker.queue, session.answerer
        return replace(
            own,
            waiting=queue.waiting(Priority.QUESTION),
            busy_for=queue.busy_for(),
            restarts=session.worker.restarts,
            scenes_made=answerer.scenes.made,
            scenes_reused=answerer.scenes.reused,
            batches=answerer.tally.batches,
            batched=answerer.tally.batched,
            out_of_memory=answerer.failures.out_of_memory,
        )

    def _latency(self) -> dict[str, tuple[float, float, float]]:
        if not self._took:
            return {}
        names = (*STAGES, "first_token")
        columns = [sorted(column) for column in zip(*self._took, strict=True)]
        last = len(self._took) - 1
        return {
            name: (
                column[round(last * 0.50)],
                column[round(last * 0.95)],
                column[round(last * 0.99)],
            )
            for name, column in zip(names, columns, strict=True)
        }
