# SPDX-License-Identifier: Apache-2.0
"""The engine's second half: from a `Scene` and questions to `Answer`s."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from svd_vlm_ros.engine.values import (
    Answer,
    AnswerTimings,
    PendingPruning,
    PendingSelection,
    Scene,
    Stopwatch,
)
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.runtime import Runtime

if TYPE_CHECKING:
    from svd_vlm_ros.models.interface import (
        Connector,
        LanguageModel,
        LoadedModel,
        Prefix,
        Prompt,
        TokenPruning,
        Writer,
    )
    from svd_vlm_ros.models.tokens import Tokens
    from svd_vlm_ros.selection import Selection, VisualFeatures

ShouldStop = Callable[[int], str | None]
OnText = Callable[[int, str], None]


@dataclass(frozen=True, eq=False)
class _Reading:
    """One question, ready to be read: its tokens behind a prefix.

    If the scene is not shared the first `visual` tokens are the question's own visual ones,
    `selection` says which, or `pruning` will, when they have been read.
    """

    prefix: Prefix
    tokens: Tokens
    visual: int
    selection: Selection | None = None
    pruning: TokenPruning | None = None
    select: float = 0.0
    project: float = 0.0

    def visual_tokens(self) -> tuple[Selection | None, tuple[int, ...] | None]:
        """The selection, and the visual tokens of each layer if they differ."""
        if self.pruning is None:
            return self.selection, None
        return self.pruning.selection(), tuple(self.pruning.counts)


@dataclass
class _Draft:
    """An answer while it is written; times are seconds since the call."""

    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    reason: str = ""
    first: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class _Callbacks:
    """The caller's, for the questions of a batch: `names` are their indices as the caller knows."""

    names: Sequence[int]
    stop: ShouldStop | None
    text: OnText | None

    def should_stop(self, index: int) -> str:
        return (self.stop(self.names[index]) if self.stop else None) or ""

    def on_text(self, index: int, tokens: Sequence[int], prompt: Prompt) -> None:
        if self.text:
            self.text(self.names[index], prompt.decode(tokens))


class Answerer:
    """Answers questions on scenes: in batches if they share a scene, else one by one."""

    def __init__(
        self,
        runtime: Runtime,
        loaded: LoadedModel,
        language: LanguageModel,
        connector: Connector,
        prompt: Prompt,
        context: int,
        watch: Callable[[], Stopwatch],
    ) -> None:
        self.prompt = prompt
        self._runtime, self._language, self._connector = runtime, language, connector
        self._ends, self._context, self._watch = loaded.end_token_ids, context, watch

    def ask(
        self,
        scene: Scene,
        questions: Sequence[str],
        limits: Sequence[int],
        should_stop: ShouldStop | None,
        on_text: OnText | None,
    ) -> list[Answer]:
        """Answer in free text; see `SceneEngine.ask_many`."""
        ids = [self.prompt.after(question) for question in questions]
        for text, limit in zip(ids, limits, strict=True):
            if limit < 1:
                raise UserError(f"max_new_tokens must be 1 or more, not {limit}.")
            self._check_room(scene, len(text), limit)
        answers: list[Answer] = []
        for batch in _batches(scene, len(ids)):
            drafts = [_Draft() for _ in batch]
            first = self._write(
                scene,
                [(questions[i], ids[i]) for i in batch],
                [limits[i] for i in batch],
                drafts,
                _Callbacks(batch, should_stop, on_text),
            )
            for i, one in enumerate(drafts):
                answers.append(self._answer(scene, one, len(ids[batch[i]]), first))
        return answers

    def choose(self, scene: Scene, asked: Sequence[tuple[str, Sequence[str]]]) -> list[Answer]:
        """Choose among answers; see `SceneEngine.choose_many`."""
        ids: list[tuple[int, ...]] = []
        texts: list[list[tuple[int, ...]]] = []
        for question, choices in asked:
            if isinstance(choices, str) or len(choices) < 2:
                raise UserError("Give two or more choices to choose among.")
            ids.append(self.prompt.after(question))
            texts.append([self.prompt.answer(question, choice) for choice in choices])
            if len({choice.strip() for choice in choices}) < len(choices):
                raise UserError("Two of the choices are the same.")
            self._check_room(scene, len(ids[-1]), max(map(len, texts[-1])) + 1)
        end = self.prompt.end(self._ends)
        answers: list[Answer] = []
        for batch in _batches(scene, len(ids)):
            watch = self._watch()
            readings = [self._read(scene, asked[i][0], ids[i], watch) for i in batch]
            ended = [[[*text, end] for text in texts[i]] for i in batch]
            tokens = [one.tokens for one in readings]
            scores = self._language.score(
                readings[0].prefix, list(zip(tokens, ended, strict=True)), readings[0].pruning
            )
            seconds = watch.lap()
            for i, one, found in zip(batch, readings, scores, strict=True):
                best = max(range(len(found)), key=found.__getitem__)
                probabilities = _softmax(found)
                selection, layers = one.visual_tokens()
                answers.append(
                    Answer(
                        text=asked[i][1][best].strip(),
                        confidence=probabilities[best],
                        probabilities=tuple(probabilities),
                        finish_reason="choice",
                        prompt_tokens=one.prefix.length + len(one.tokens),
                        answer_tokens=len(texts[i][best]),
                        token_ids=texts[i][best],
                        timings=AnswerTimings(
                            prefill=seconds,
                            decode=0.0,
                            first_token=one.select + one.project + seconds,
                            total=watch.total(),
                            select=one.select,
                            project=one.project,
                        ),
                        selection=selection or scene.selection,
                        layer_tokens=layers or self._every_layer(scene, one),
                    )
                )
        return answers

    def _write(
        self,
        scene: Scene,
        asked: Sequence[tuple[str, Sequence[int]]],
        limits: Sequence[int],
        drafts: Sequence[_Draft],
        callbacks: _Callbacks,
    ) -> _Reading | None:
        """Write the answers of a batch into `drafts`.

        Returns:
            The first question as it was read; None: all were stopped before.
        """
        watch = self._watch()
        active = list(range(len(asked)))
        readings: list[_Reading] = []
        writer: Writer | None = None
        while active:
            for i in active:
                drafts[i].reason = callbacks.should_stop(i)
                drafts[i].total = watch.elapsed()
            active = [i for i in active if not drafts[i].reason]
            if not active:
                break
            if writer is None:
                readings = [self._read(scene, question, ids, watch) for question, ids in asked]
                writer = self._language.write(
                    readings[0].prefix,
                    [one.tokens for one in readings],
                    limits,
                    readings[0].pruning,
                )
            for i, (token, probability) in zip(active, writer.step(active), strict=True):
                one = drafts[i]
                one.first = one.first or watch.elapsed()
                if token in self._ends:
                    one.reason = "stop"
                    one.probabilities += [] if one.tokens else [probability]
                else:
                    one.tokens.append(token)
                    one.probabilities.append(probability)
                    callbacks.on_text(i, one.tokens, self.prompt)
                    one.reason = "length" if len(one.tokens) == limits[i] else ""
                one.total = watch.elapsed()
            active = [i for i in active if not drafts[i].reason]
        return readings[0] if readings else None

    def _answer(self, scene: Scene, draft: _Draft, text: int, reading: _Reading | None) -> Answer:
        """The answer to a question of `text` tokens. What is seen is the same in a whole batch."""
        selection, layers = reading.visual_tokens() if reading else (None, None)
        visual = reading.visual if reading else scene.tokens_kept if scene.pending else 0
        before = _read_before(scene)
        select, project = (reading.select, reading.project) if reading else (0.0, 0.0)
        return Answer(
            text=self.prompt.decode(draft.tokens),
            confidence=_geometric_mean(draft.probabilities),
            probabilities=(),
            finish_reason=draft.reason,
            prompt_tokens=before.length + visual + text,
            answer_tokens=len(draft.tokens),
            token_ids=tuple(draft.tokens),
            timings=AnswerTimings(
                prefill=max(draft.first - select - project, 0.0),
                decode=draft.total - draft.first if draft.first else 0.0,
                first_token=draft.first,
                total=draft.total,
                select=select,
                project=project,
            ),
            selection=selection or scene.selection,
            layer_tokens=layers or (self._every_layer(scene, reading) if reading else ()),
        )

    def _read(self, scene: Scene, question: str, ids: Sequence[int], watch: Stopwatch) -> _Reading:
        """What a question reads: its text alone on a shared scene, else also what it looks at."""
        text = self._language.embed(ids)
        pending = scene.pending
        if pending is None:
            assert scene.prefix is not None
            return _Reading(scene.prefix, text, 0)
        watch.lap()
        selection, pruning, select = None, None, 0.0
        if isinstance(pending, PendingPruning):
            visual = pending.visual
            pruning = self._language.pruning(pending.selector, pending.budget, len(visual))
        else:
            features = self._with_question(pending, question)
            selection = self._runtime.select(pending.selector, features, pending.budget)
            select = watch.lap()
            visual = self._connector(features, selection)
        tokens = visual.like(text).followed_by(text)
        project = 0.0 if pruning else watch.lap()
        return _Reading(
            pending.system, tokens, len(visual), selection, pruning, select=select, project=project
        )

    def _with_question(self, pending: PendingSelection, question: str) -> VisualFeatures:
        """The features with what the selector needs of the question."""
        features = pending.features
        words = self._language.embed(self.prompt.words(question)).rows
        if "question" in pending.selector.needs:
            features = replace(features, question=words)
        if pending.compare is not None:
            features = replace(features, image_text=pending.compare(features, question, words))
        return features

    def _every_layer(self, scene: Scene, reading: _Reading) -> tuple[int, ...]:
        visual = reading.visual if scene.pending else scene.tokens_kept
        if reading.selection is not None:
            visual = len(reading.selection)
        return (visual,) * self._language.layers

    def _check_room(self, scene: Scene, asked: int, answered: int) -> None:
        before = _read_before(scene)
        read = max(before.length, before.end)
        if scene.pending is not None:
            read += scene.pending.room
        room = self._context - read - answered
        if asked > room:
            raise UserError(
                f"The question has {asked} tokens; beside the image and an answer of {answered} "
                f"tokens there is room for {max(room, 0)}."
            )


def _read_before(scene: Scene) -> Prefix:
    """What the language model has read before a question comes."""
    if scene.pending is not None:
        return scene.pending.system
    assert scene.prefix is not None
    return scene.prefix


def _batches(scene: Scene, count: int) -> list[list[int]]:
    """Which questions are read together: all, or each alone if it has its own visual tokens."""
    everything = list(range(count))
    if scene.pending is None:
        return [everything] if everything else []
    return [[i] for i in everything]


def _geometric_mean(probabilities: Sequence[float]) -> float:
    if not probabilities or min(probabilities) <= 0.0:
        return 0.0
    return math.exp(sum(map(math.log, probabilities)) / len(probabilities))


def _softmax(scores: Sequence[float]) -> list[float]:
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
