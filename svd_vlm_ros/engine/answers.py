# SPDX-License-Identifier: Apache-2.0
"""The engine's second half: from a `Scene` and questions to `Answer`s."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from svd_vlm_ros.engine.scenes import Looker
from svd_vlm_ros.engine.values import Answer, AnswerTimings, Pending, Scene, Stopwatch
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.language.cache import Prefix
from svd_vlm_ros.models.language.model import LanguageModel
from svd_vlm_ros.models.language.pruning import Pruning
from svd_vlm_ros.models.language.writer import Writer
from svd_vlm_ros.models.llava.loading import LoadedLlava
from svd_vlm_ros.models.llava.prompt import Prompt
from svd_vlm_ros.selection import Selection, VisualFeatures

ShouldStop = Callable[[int], str | None]
OnText = Callable[[int, str], None]


@dataclass(frozen=True, eq=False)
class _Ready:
    """One question, ready to be read: its rows [n, hidden] behind a prefix.

    Where the scene is not shared the first `visual` rows are the question's own visual tokens,
    `selection` says which, or `pruning` will, when they have been read.
    """

    prefix: Prefix
    rows: Tensor
    visual: int
    selection: Selection | None = None
    pruning: Pruning | None = None
    select: float = 0.0
    project: float = 0.0

    def looked_at(self) -> tuple[Selection | None, tuple[int, ...] | None]:
        """The selection, and the visual tokens of each layer where they differ."""
        if self.pruning is None:
            return self.selection, None
        return self.pruning.selection(), tuple(self.pruning.counts)


@dataclass
class _Told:
    """An answer while it is written; times are seconds since the call."""

    tokens: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
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


class Asker:
    """Answers questions on scenes: in batches where they share a scene, else one by one."""

    def __init__(
        self,
        loaded: LoadedLlava,
        language: LanguageModel,
        prompt: Prompt,
        looker: Looker,
        context: int,
    ) -> None:
        self.prompt = prompt
        self._language, self._looker = language, looker
        self._ends, self._device, self._context = loaded.end_token_ids, loaded.device, context

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
            told = [_Told() for _ in batch]
            ready = self._write(
                scene,
                [(questions[i], ids[i]) for i in batch],
                [limits[i] for i in batch],
                told,
                _Callbacks(batch, should_stop, on_text),
            )
            for i, one in enumerate(told):
                answers.append(self._answer(scene, one, len(ids[batch[i]]), ready))
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
        end = min(self._ends)
        answers: list[Answer] = []
        for batch in _batches(scene, len(ids)):
            watch = Stopwatch(self._device)
            ready = [self._ready(scene, asked[i][0], ids[i], watch) for i in batch]
            ended = [[[*text, end] for text in texts[i]] for i in batch]
            rows = [one.rows for one in ready]
            scores = self._language.score(
                ready[0].prefix, list(zip(rows, ended, strict=True)), ready[0].pruning
            )
            seconds = watch.lap()
            for i, one, found in zip(batch, ready, scores, strict=True):
                best = max(range(len(found)), key=found.__getitem__)
                probabilities = torch.tensor(found, dtype=torch.float64).softmax(0).tolist()
                selection, layers = one.looked_at()
                answers.append(
                    Answer(
                        text=asked[i][1][best].strip(),
                        confidence=probabilities[best],
                        probabilities=tuple(probabilities),
                        finish_reason="choice",
                        prompt_tokens=one.prefix.length + len(one.rows),
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
        told: Sequence[_Told],
        callbacks: _Callbacks,
    ) -> _Ready | None:
        """Write the answers of a batch into `told`.

        Returns:
            The first question as it was read; None: all were stopped before.
        """
        watch = Stopwatch(self._device)
        active = list(range(len(asked)))
        ready: list[_Ready] = []
        writer: Writer | None = None
        while active:
            for i in active:
                told[i].reason = callbacks.should_stop(i)
                told[i].total = watch.elapsed()
            active = [i for i in active if not told[i].reason]
            if not active:
                break
            if writer is None:
                ready = [self._ready(scene, question, ids, watch) for question, ids in asked]
                rows = [one.rows for one in ready]
                writer = self._language.write(ready[0].prefix, rows, limits, ready[0].pruning)
            for i, (token, chance) in zip(active, writer.step(active), strict=True):
                one = told[i]
                one.first = one.first or watch.elapsed()
                if token in self._ends:
                    one.reason = "stop"
                    one.chances += [] if one.tokens else [chance]
                else:
                    one.tokens.append(token)
                    one.chances.append(chance)
                    callbacks.on_text(i, one.tokens, self.prompt)
                    one.reason = "length" if len(one.tokens) == limits[i] else ""
                one.total = watch.elapsed()
            active = [i for i in active if not told[i].reason]
        return ready[0] if ready else None

    def _answer(self, scene: Scene, told: _Told, text: int, ready: _Ready | None) -> Answer:
        """The answer to a question of `text` tokens. What is seen is the same in a whole batch."""
        selection, layers = ready.looked_at() if ready else (None, None)
        visual = ready.visual if ready else scene.tokens_kept if scene.pending else 0
        before = _read_before(scene)
        select, project = (ready.select, ready.project) if ready else (0.0, 0.0)
        return Answer(
            text=self.prompt.decode(told.tokens),
            confidence=_geometric_mean(told.chances),
            probabilities=(),
            finish_reason=told.reason,
            prompt_tokens=before.length + visual + text,
            answer_tokens=len(told.tokens),
            token_ids=tuple(told.tokens),
            timings=AnswerTimings(
                prefill=max(told.first - select - project, 0.0),
                decode=told.total - told.first if told.first else 0.0,
                first_token=told.first,
                total=told.total,
                select=select,
                project=project,
            ),
            selection=selection or scene.selection,
            layer_tokens=layers or (self._every_layer(scene, ready) if ready else ()),
        )

    def _ready(self, scene: Scene, question: str, ids: Sequence[int], watch: Stopwatch) -> _Ready:
        """What a question reads: its text alone on a shared scene, else also what it looks at."""
        text = self._language.embed(ids)
        pending = scene.pending
        if pending is None:
            assert scene.prefix is not None
            return _Ready(scene.prefix, text, 0)
        watch.lap()
        if pending.projected is not None:
            tokens = pending.projected.to(text.dtype)
            pruning = self._language.pruning(pending.selector, pending.budget, len(tokens))
            rows = torch.cat([tokens, text])
            return _Ready(pending.system, rows, len(tokens), pruning=pruning)
        features = self._with_question(pending, question)
        selection = pending.selector(features, pending.budget)
        select = watch.lap()
        tokens = self._looker.projector(features, selection).to(text.dtype)
        rows = torch.cat([tokens, text])
        project = watch.lap()
        return _Ready(pending.system, rows, len(tokens), selection, select=select, project=project)

    def _with_question(self, pending: Pending, question: str) -> VisualFeatures:
        """The features with what the selector needs of the question."""
        features = pending.features
        words = self._language.embed(self.prompt.words(question))
        if "question" in pending.selector.needs:
            features = replace(features, question=words)
        if pending.compare is not None:
            features = replace(features, image_text=pending.compare(features, question, words))
        return features

    def _every_layer(self, scene: Scene, ready: _Ready) -> tuple[int, ...]:
        visual = ready.visual if scene.pending else scene.tokens_kept
        return (visual,) * self._language.layers

    def _check_room(self, scene: Scene, asked: int, answered: int) -> None:
        read = _read_before(scene).length
        if scene.pending is not None:
            inside = scene.pending.projected is not None
            read += scene.tokens_total if inside else scene.tokens_kept
        room = self._context - read - answered
        if asked > room:
            raise UserError(
                f"The question has {asked} tokens; beside the picture and an answer of {answered} "
                f"tokens there is room for {max(room, 0)}."
            )


def _read_before(scene: Scene) -> Prefix:
    """What the language model has read before a question comes."""
    if scene.pending is not None:
        return scene.pending.system
    assert scene.prefix is not None
    return scene.prefix


def _batches(scene: Scene, count: int) -> list[list[int]]:
    """Which questions are read together: all, or each alone where it has its own visual tokens."""
    everything = list(range(count))
    if scene.pending is None:
        return [everything] if everything else []
    return [[i] for i in everything]


def _geometric_mean(chances: Sequence[float]) -> float:
    if not chances or min(chances) <= 0.0:
        return 0.0
    return math.exp(sum(map(math.log, chances)) / len(chances))
