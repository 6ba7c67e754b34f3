# SPDX-License-Identifier: Apache-2.0
"""Questions as the rows of tokens that language model and joined model are trained on.

All of a scene's questions stand behind each other in one row, which `language.forward_asked` reads
as so many prompts about one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..architecture import BOS, EOS, tokenizer
from ..questions import QUESTION_KINDS, Question, questions
from ..world import WorldScene

ASKED = 20  # questions a scene, in one sequence
CHUNK = 5  # questions that share one call of the attention
# How often a kind is asked: what takes two steps of thought is learned last and most slowly.
WEIGHT = {
    "left of": 2.0,
    "sign": 4.0,
    "count": 5.0,
    "exists color": 1.5,
    "describe": 8.0,
    "nearest": 0.8,
    "color": 0.7,
    "where": 0.7,
    "path": 0.5,
    "absent": 0.5,
    "exists": 0.25,
    "ground": 0.15,
    "sky": 0.15,
}
IGNORED = -100  # the target of what belongs to no answer


@dataclass(frozen=True)
class Asked:
    """One question with its answer. `ids` int64 [L]: question, turn, answer, end; the answer begins
    at `start`.
    """

    ids: np.ndarray
    start: int
    kind: int


class Writer:
    """Writes questions and answers as tokens, in the prompt that the engine uses."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer()
        self.prefix = [BOS, *self.encode("USER:")]
        self.turn = self.encode("ASSISTANT:")

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of the prompt, without `<s>`."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def row(self, asked: list[Question]) -> list[Asked]:
        """The questions by length, so that those that share a chunk need little padding."""
        rows = []
        for question in asked:
            prompt = self.encode(question.text) + self.turn
            ids = np.array([*prompt, *self.encode(question.answer), EOS], np.int64)
            rows.append(Asked(ids, len(prompt), QUESTION_KINDS.index(question.kind)))
        return sorted(rows, key=lambda row: len(row.ids))


def choose_questions(scene: WorldScene, rng: np.random.Generator, count: int) -> list[Question]:
    """`count` questions of the scene, the harder kinds more often; half of them without a question
    mark.
    """
    pool = [q for _ in range(3) for q in questions(scene, rng)]
    weight = np.array([WEIGHT.get(q.kind, 1.0) for q in pool])
    picks = rng.choice(len(pool), count, replace=False, p=weight / weight.sum())
    return [
        Question(q.kind, q.text.rstrip("?.") if rng.random() < 0.35 else q.text, q.answer)
        for q in (pool[i] for i in picks)
    ]


@dataclass(frozen=True)
class AskedBatch:
    """Questions of B scenes, each scene's in one row. int64 [B, L] each; `chunks` are the lengths
    that make up L.

    `segment` numbers the questions from 1 (0: padding), `position` counts within a question,
    `target` is the next token if it belongs to an answer, else `IGNORED`.
    """

    ids: Tensor
    segment: Tensor
    position: Tensor
    target: Tensor
    kind: Tensor
    chunks: tuple[int, ...]

    def to(self, device: torch.device) -> AskedBatch:
        """The same batch on another device."""
        tensors = (self.ids, self.segment, self.position, self.target, self.kind)
        ids, segment, position, target, kind = (x.to(device) for x in tensors)
        return AskedBatch(ids, segment, position, target, kind, self.chunks)


def collate_asked(rows: list[list[Asked]]) -> AskedBatch:
    """Rows of equally many questions, padded so that each chunk of questions is equally long in all
    rows.
    """
    count = len(rows[0])
    lengths = [
        max(sum(len(q.ids) for q in row[at : at + CHUNK]) for row in rows)
        for at in range(0, count, CHUNK)
    ]
    fields = np.zeros((5, len(rows), sum(lengths)), np.int64)
    ids, segment, position, target, kind = fields
    target[:] = IGNORED
    for number, row in enumerate(rows):
        for i, question in enumerate(row):
            chunk, within = divmod(i, CHUNK)
            if within == 0:
                at = sum(lengths[:chunk])
            size = len(question.ids)
            ids[number, at : at + size] = question.ids
            segment[number, at : at + size] = i + 1
            position[number, at : at + size] = np.arange(size)
            target[number, at + question.start - 1 : at + size - 1] = question.ids[question.start :]
            kind[number, at : at + size] = question.kind
            at += size
    return AskedBatch(
        ids=torch.from_numpy(ids),
        segment=torch.from_numpy(segment),
        position=torch.from_numpy(position),
        target=torch.from_numpy(target),
        kind=torch.from_numpy(kind),
        chunks=tuple(lengths),
    )
