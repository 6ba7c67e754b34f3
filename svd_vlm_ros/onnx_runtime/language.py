# SPDX-License-Identifier: Apache-2.0
"""The language model over the decoder graph: `prefill` a prefix, `write` answers, `score` texts.

The graph is a pure function: embeddings, positions and what was read before go in, logits and all
that is read by then come out. So what was read once is never changed and needs no copy, and each
question goes on from it by itself; questions of a batch take a step each by turns. Keys and values
stay on the device, bound as outputs of one step and inputs of the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.onnx_runtime.sessions import Graph, dtype_of
from svd_vlm_ros.onnx_runtime.tokens import Tokens

States = tuple[Any, ...]
"""Keys and values of each layer by turns, `OrtValue`s [1, heads, length, head size]."""


@dataclass(eq=False)
class Prefix:
    """What the language model has read, or will have read with the first question behind it.

    Attributes:
        length: tokens, visual ones among them, read or not.
        end: the position id of what follows them.
        reader: identifies the language model that reads it; no other can continue it.
        states: of the tokens; () until they are read.
        unread: a prefix, and the tokens behind it that make up the rest; None: all is read.
    """

    length: int
    end: int
    reader: object
    states: States = ()
    unread: tuple[Prefix, Tokens] | None = None

    def fill(self, states: States) -> None:
        """Take up what was read. `RuntimeError`: it was filled before."""
        if self.unread is None:
            raise RuntimeError("this prefix was read before: its keys and values never change")
        self.states, self.unread = states, None

    @property
    def memory_bytes(self) -> int:
        """Bytes that the keys and values take."""
        return sum(
            math.prod(state.shape()) * dtype_of(state.data_type()).itemsize for state in self.states
        )


class ExportLanguageModel:
    """See `models.interface.LanguageModel`."""

    def __init__(self, graph: Graph, embeddings: np.ndarray, layers: int) -> None:
        """Take the graph.

        Args:
            graph: of the decoder.
            embeddings: float [vocabulary, hidden], may be mapped from a file.
            layers: of the graph.
        """
        self.layers = layers
        self._graph, self._embeddings = graph, embeddings
        self._past = [f"past_{of}.{i}" for i in range(layers) for of in ("key", "value")]
        self._present = [f"present_{of}.{i}" for i in range(layers) for of in ("key", "value")]
        self._identity = object()

    def embed(self, ids: Sequence[int]) -> Tokens:
        """The embeddings [n, hidden] of n token ids, in order."""
        rows = self._embeddings[np.asarray(ids, dtype=np.int64)]
        return Tokens.in_order(rows.astype(self._graph.dtype("inputs_embeds"), copy=False))

    def prefill(self, tokens: Tokens) -> Prefix:
        """Read one or more tokens."""
        _, states = self.read(tokens, 0, self._nothing(), [len(tokens) - 1])
        return Prefix(len(tokens), tokens.span, self._identity, states)

    def extend(self, prefix: Prefix, tokens: Tokens) -> Prefix:
        """A prefix and tokens behind it, read with the first question; nothing is computed."""
        mine = self._mine(prefix)
        return Prefix(
            *(mine.length + len(tokens), mine.end + tokens.span, self._identity),
            unread=(mine, tokens),
        )

    def pruning(self, selector: Any, budget: object, visual: int) -> Any:
        """Nothing can act inside a graph."""
        raise UserError(
            f"The selector '{selector.name}' acts between the layers of the language model, which "
            "the runtime onnx can't."
        )

    def write(
        self,
        prefix: Prefix,
        questions: Sequence[Tokens],
        limits: Sequence[int],
        pruning: None = None,
    ) -> Writer:
        """Answer questions behind a prefix, each by itself, a step of each by turns."""
        return Writer(self, self._mine(prefix), questions)

    def score(
        self,
        prefix: Prefix,
        asked: Sequence[tuple[Tokens, Sequence[Sequence[int]]]],
        pruning: None = None,
    ) -> list[list[float]]:
        """The log-probabilities of texts behind questions.

        Each question is read once, and each text of more than one token in a pass behind it.

        Args:
            prefix: is left as it is, or filled with the first question if it is unread.
            asked: for each question its tokens, and the token ids of its texts, one or more of one
                or more tokens.
        """
        mine = self._mine(prefix)
        found = []
        for question, texts in asked:
            logits, states, end = self.question(mine, question)
            first = log_probabilities(logits)[0]
            found.append([self._score(text, first, states, end) for text in texts])
        return found

    def question(self, prefix: Prefix, question: Tokens) -> tuple[np.ndarray, States, int]:
        """Read a question behind a prefix, and that in the same pass if it is unread.

        Returns:
            The logits behind it, float32 [1, vocabulary], all that was read by then, and the
            position id of what follows.
        """
        end = prefix.end + question.span
        if prefix.unread is None:
            rows = [len(question) - 1]
            return *self.read(question, prefix.end, prefix.states, rows), end
        before, lead = prefix.unread
        tokens = lead.like(question).followed_by(question)
        logits, states = self.read(tokens, before.end, before.states, [len(tokens) - 1])
        prefix.fill(tuple(self._beginning(state, prefix.length) for state in states))
        return logits, states, end

    def read(
        self, tokens: Tokens, start: int, past: States, rows: Sequence[int]
    ) -> tuple[np.ndarray, States]:
        """Read tokens behind what was read.

        Args:
            tokens: one or more.
            start: the position id of the first one.
            past: is left as it is.
            rows: of the tokens those whose logits are wanted, one or more.

        Returns:
            Logits, float32 [r, vocabulary], and all that was read by then.
        """
        graph = self._graph
        embedded = tokens.rows.astype(graph.dtype("inputs_embeds"), copy=False)
        feeds = {
            "inputs_embeds": np.ascontiguousarray(embedded)[None],
            "position_ids": (start + tokens.positions()).astype(np.int64)[None],
            "rows": np.asarray(rows, dtype=np.int64),
        }
        binding = graph.session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        for name, value in zip(self._past, past, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        for name in self._present:
            binding.bind_output(name, graph.device.memory, graph.device.index)
        graph.session.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        return logits.numpy().astype(np.float32, copy=False), tuple(present)

    def _score(self, text: Sequence[int], first: np.ndarray, states: States, end: int) -> float:
        """The log-probability of a text, of whose first token they are known."""
        total = float(first[text[0]])
        if len(text) > 1:
            words = self.embed(text[:-1])  # what follows the last token is not asked for
            logits, _ = self.read(words, end, states, range(len(words)))
            total += float(log_probabilities(logits)[range(len(words)), list(text[1:])].sum())
        return total

    def _nothing(self) -> States:
        """The states of no token at all."""
        shapes = {each.name: each.shape for each in self._graph.session.get_inputs()}
        return tuple(
            self._value(np.zeros((1, shapes[name][1], 0, shapes[name][3]), self._graph.dtype(name)))
            for name in self._past
        )

    def _beginning(self, state: Any, length: int) -> Any:
        """The states of the first tokens, in memory of their own."""
        return self._value(np.ascontiguousarray(state.numpy()[:, :, :length]))

    def _value(self, array: np.ndarray) -> Any:
        from onnxruntime import OrtValue

        device = self._graph.device
        return OrtValue.ortvalue_from_numpy(array, device.memory, device.index)

    def _mine(self, prefix: Prefix) -> Prefix:
        """A prefix of this very language model. `ValueError`: it is another's."""
        if not isinstance(prefix, Prefix) or prefix.reader is not self._identity:
            raise ValueError("this scene was made by another engine")
        return prefix


@dataclass
class _Written:
    """An answer that is being written: what was read, and the position of what follows."""

    states: States = field(repr=False)
    end: int
    last: int


class Writer:
    """Answers that are being written, a token of each in every step."""

    def __init__(
        self, language: ExportLanguageModel, prefix: Prefix, questions: Sequence[Tokens]
    ) -> None:
        """Nothing is computed before the first step."""
        self._language, self._prefix, self._questions = language, prefix, questions
        self._written: dict[int, _Written] = {}
        self._begun = False

    def step(self, rows: Sequence[int]) -> list[tuple[int, float]]:
        """Write one more token of some answers; the first step reads the questions.

        Args:
            rows: which ones, ascending; a row that is left out once has ended.

        Returns:
            For each the next token and the probability that the model gave it.
        """
        for row in set(self._written) - set(rows):
            del self._written[row]  # its keys and values
        found = [self._next(row) if self._begun else self._first(row) for row in rows]
        self._begun = True
        return found

    def _first(self, row: int) -> tuple[int, float]:
        logits, states, end = self._language.question(self._prefix, self._questions[row])
        token, probability = likeliest(logits)
        self._written[row] = _Written(states, end, token)
        return token, probability

    def _next(self, row: int) -> tuple[int, float]:
        one = self._written[row]
        last = self._language.embed([one.last])
        logits, one.states = self._language.read(last, one.end, one.states, [0])
        one.last, probability = likeliest(logits)
        one.end += 1
        return one.last, probability


def likeliest(logits: np.ndarray) -> tuple[int, float]:
    """The likeliest token of logits [1, vocabulary], and its probability."""
    token = int(logits[0].argmax())
    return token, float(np.exp(log_probabilities(logits)[0, token]))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Of logits [r, vocabulary], in float32."""
    apart = logits - logits.max(axis=1, keepdims=True)
    logs: np.ndarray = apart - np.log(np.exp(apart).sum(axis=1, keepdims=True))
    return logs
