# SPDX-License-Identifier: Apache-2.0
"""`decoder.onnx`: a language model of Llama's kind from embeddings to logits, over a growing cache.

    inputs_embeds float32 [1, n, hidden], position_ids int64 [1, n], rows int64 [r],
    past_key.{i}, past_value.{i} [1, kv_heads, p, head_dim]
        -> logits float32 [r, vocabulary], present_key.{i}, present_value.{i} [1, kv_heads, p + n,
           head_dim]

A pure function: p = 0 reads a prompt, p > 0 a question behind a shared prefix, n = 1 one token.
Each of the n tokens sees the p and those of the n up to itself. What the position ids are is the
caller's business, so that kept visual tokens may keep theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.graph import Graph, Shape
from svd_vlm_ros.export.layers import (
    FLOAT,
    Weights,
    activation,
    linear,
    rms_norm,
)

LAYER_LINEARS = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""The linear layers of a decoder layer: what int8 and int4 quantize, as the torch engine does."""


@dataclass(frozen=True, eq=False)
class DecoderShape:
    """The sizes of a language model, and its rotary embedding.

    Attributes:
        layers, hidden, heads, kv_heads, head_dim, vocabulary: as in its config.json.
        epsilon: of the norms.
        activation: of the MLP, by transformers' name.
        frequencies: float32 [head_dim / 2] of the rotary embedding, scaled already.
        rotary_scale: what cosines and sines are multiplied with (YaRN), else 1.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    epsilon: float
    activation: str
    frequencies: np.ndarray
    rotary_scale: float

    @classmethod
    def from_config(cls, config: Any) -> DecoderShape:
        """Read transformers' configuration of a Llama, Qwen2 or Qwen3.

        Raises:
            UserError: it has what can't be exported yet.
        """
        _check(config)
        frequencies, scale = _rotary(config)
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
            vocabulary=config.vocab_size,
            epsilon=config.rms_norm_eps,
            activation=config.hidden_act,
            frequencies=frequencies,
            rotary_scale=scale,
        )

    @property
    def quantized(self) -> int:
        """How many linear layers int8 and int4 quantize."""
        return self.layers * len(LAYER_LINEARS)


class DecoderWriter:
    """Writes the graph: `begin`, then each layer in order, then `finish`. One weight in memory."""

    def __init__(self, graph: Graph, shape: DecoderShape, weights: Weights, bits: int | None):
        """Take over an open graph.

        Args:
            graph: takes the nodes and weights.
            shape: of the model.
            weights: by the names below transformers' text model, "layers.0.mlp.up_proj.weight",
                and "lm_head.weight".
            bits: 8 or 4: the layers' linear layers are quantized; None: nothing is.
        """
        self._graph, self._shape, self._weights, self._bits = graph, shape, weights, bits
        self._hidden = self._mask = self._cosines = self._sines = self._rows = ""

    def begin(self) -> None:
        """The inputs, the rotary embedding and the mask, which all layers share."""
        graph, shape = self._graph, self._shape
        embeds = graph.input("inputs_embeds", np.float32, [1, "n", shape.hidden])
        positions = graph.input("position_ids", np.int64, [1, "n"])
        self._rows = graph.input("rows", np.int64, ["r"])
        past: Shape = [1, shape.kv_heads, "p", shape.head_dim]
        for index in range(shape.layers):
            graph.input(f"past_key.{index}", graph.compute, past)
            graph.input(f"past_value.{index}", graph.compute, past)
        with graph.scope("rotary"):
            self._cosines, self._sines = self._angles(positions)
        with graph.scope("mask"):
            self._mask = self._causal()
        narrow = graph.compute != FLOAT
        self._hidden = graph.cast(embeds, graph.compute) if narrow else embeds

    def layer(self, index: int) -> None:
        """The next layer."""
        graph, weights, bits = self._graph, self._weights, self._bits
        name, epsilon = f"layers.{index}", self._shape.epsilon
        before = rms_norm(graph, weights, f"{name}.input_layernorm", self._hidden, epsilon)
        with graph.scope(f"{name}.attention"):
            seen = self._attention(index, before)
        read = linear(graph, weights, f"{name}.self_attn.o_proj", seen, bits)
        hidden = graph.node("Add", self._hidden, read)
        before = rms_norm(graph, weights, f"{name}.post_attention_layernorm", hidden, epsilon)
        gate = linear(graph, weights, f"{name}.mlp.gate_proj", before, bits)
        risen = linear(graph, weights, f"{name}.mlp.up_proj", before, bits)
        inner = graph.node("Mul", activation(graph, self._shape.activation, gate), risen)
        self._hidden = graph.node(
            "Add", hidden, linear(graph, weights, f"{name}.mlp.down_proj", inner, bits)
        )

    def finish(self) -> None:
        """The logits of the wanted rows, and the outputs."""
        graph, shape = self._graph, self._shape
        wanted = graph.node("Gather", self._hidden, self._rows, axis=1)
        last = rms_norm(graph, self._weights, "norm", wanted, shape.epsilon)
        logits = linear(graph, self._weights, "lm_head", last)
        if graph.compute != FLOAT:
            logits = graph.cast(logits, np.float32)
        graph.reshape(logits, [-1, shape.vocabulary], gives="logits")
        graph.output("logits", np.float32, ["r", shape.vocabulary])
        present: Shape = [1, shape.kv_heads, "p + n", shape.head_dim]
        for index in range(shape.layers):
            graph.output(f"present_key.{index}", graph.compute, present)
            graph.output(f"present_value.{index}", graph.compute, present)

    def _angles(self, positions: str) -> tuple[str, str]:
        """Cosines and sines [1, n, 1, head_dim]; the first half of the sines is negative, so that
        x * cos + (-x2, x1) * sin becomes x * cos + (x2, x1) * sines.
        """
        graph, shape = self._graph, self._shape
        places = graph.node("Unsqueeze", graph.cast(positions, np.float32), graph.constant([2, 3]))
        angles = graph.node("Mul", places, graph.constant(shape.frequencies, np.float32))
        cosines, sines = graph.node("Cos", angles), graph.node("Sin", angles)
        if shape.rotary_scale != 1.0:
            scale = graph.constant(shape.rotary_scale, np.float32)
            cosines, sines = (graph.node("Mul", each, scale) for each in (cosines, sines))
        cosines = graph.node("Concat", cosines, cosines, axis=3)
        sines = graph.node("Concat", graph.node("Neg", sines), sines, axis=3)
        if graph.compute == FLOAT:
            return cosines, sines
        return graph.cast(cosines, graph.compute), graph.cast(sines, graph.compute)

    def _causal(self) -> str:
        """[n, p + n]: 0 where a row sees a slot of the cache, else the lowest number."""
        graph = self._graph
        size = graph.node("Shape", "past_key.0")
        held = graph.node("Gather", size, graph.constant(2), axis=0)
        size = graph.node("Shape", "inputs_embeds")
        count = graph.node("Gather", size, graph.constant(1), axis=0)
        end = graph.node("Add", held, count)
        step = graph.constant(1)
        own = graph.node("Unsqueeze", graph.node("Range", held, end, step), graph.constant([1]))
        slots = graph.node("Range", graph.constant(0), end, step)
        seen = graph.node("LessOrEqual", slots, own)
        lowest = graph.number(float(np.finfo(graph.compute).min))
        return graph.node("Where", seen, graph.number(0.0), lowest)

    def _attention(self, index: int, value: str) -> str:
        """Attention of [1, n, hidden] over the cache; returns [1, n, heads * head_dim]."""
        graph, shape, name = self._graph, self._shape, f"layers.{index}.self_attn"
        heads, held, size = shape.heads, shape.kv_heads, shape.head_dim
        queries = self._states(f"{name}.q_proj", value, heads, f"{name}.q_norm")
        keys = self._states(f"{name}.k_proj", value, held, f"{name}.k_norm")
        values = graph.transpose(self._states(f"{name}.v_proj", value, held), 0, 2, 1, 3)
        # Rotated together: for a single token it is the number of operators that costs.
        both = graph.node("Concat", queries, keys, axis=2)
        halves = graph.split(both, [size // 2, size // 2], 3)
        turned = graph.node("Concat", halves[1], halves[0], axis=3)
        both = graph.node(
            "Add",
            graph.node("Mul", both, self._cosines),
            graph.node("Mul", turned, self._sines),
        )
        queries, keys = graph.split(graph.transpose(both, 0, 2, 1, 3), [heads, held], 1)
        keys = graph.node("Concat", f"past_key.{index}", keys, axis=2, gives=f"present_key.{index}")
        values = graph.node(
            "Concat", f"past_value.{index}", values, axis=2, gives=f"present_value.{index}"
        )
        queries = graph.node("Mul", queries, graph.number(size**-0.5))
        across = graph.transpose(keys, 0, 1, 3, 2)
        group = heads // held
        if group == 1:
            scores = graph.node("Add", graph.node("MatMul", queries, across), self._mask)
            seen = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), values)
            seen = graph.transpose(seen, 0, 2, 1, 3)
        else:  # the heads of a group are rows of one product with the keys that they share
            queries = graph.reshape(queries, [1, held, -1, size])
            scores = graph.node("MatMul", queries, across)
            seen = self._grouped(scores, values, group)
        return graph.reshape(seen, [1, -1, heads * size])

    def _grouped(self, scores: str, values: str, group: int) -> str:
        """From scores [1, kv_heads, group * n, p + n] to what is seen, [1, n, kv_heads, group,
        head_dim].
        """
        graph, held, size = self._graph, self._shape.kv_heads, self._shape.head_dim
        length = graph.node("Shape", scores)
        slots = graph.node("Slice", length, graph.constant([3]), graph.constant([4]))
        apart = graph.node("Concat", graph.constant([1, held, group, -1]), slots, axis=0)
        scores = graph.node("Add", graph.node("Reshape", scores, apart), self._mask)
        looks = graph.node("Softmax", scores, axis=-1)
        joined = graph.node("Concat", graph.constant([1, held, -1]), slots, axis=0)
        seen = graph.node("MatMul", graph.node("Reshape", looks, joined), values)
        return graph.transpose(graph.reshape(seen, [1, held, group, -1, size]), 0, 3, 1, 2, 4)

    def _states(self, name: str, value: str, heads: int, norm: str | None = None) -> str:
        """A projection as [1, n, heads, head_dim], each head normed if the model does that."""
        graph, weights = self._graph, self._weights
        states = linear(graph, weights, name, value, self._bits)
        states = graph.reshape(states, [1, -1, heads, self._shape.head_dim])
        if norm is None or not weights.has(f"{norm}.weight"):
            return states
        return rms_norm(graph, weights, norm, states, self._shape.epsilon)


def _check(config: Any) -> None:
    """Raise `UserError` if a language model is not one of those that `DecoderWriter` writes."""
    known = ("llama", "qwen2", "qwen3")
    if config.model_type not in known:
        raise UserError(
            f"The language model '{config.model_type}' can't be exported yet: "
            f"{', '.join(known)} can."
        )
    layers = set(getattr(config, "layer_types", None) or ())
    if layers - {"full_attention"} or getattr(config, "use_sliding_window", False):
        raise UserError("A language model with sliding windows can't be exported yet.")


def _rotary(config: Any) -> tuple[np.ndarray, float]:
    """Frequencies and scale of the rotary embedding, by transformers' own rules."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise UserError(
            f"A rotary embedding of the kind '{kind}', which depends on the length of what is "
            "read, can't be exported yet."
        )
    rotary = LlamaRotaryEmbedding(config)
    return rotary.inv_freq.float().numpy(), float(rotary.attention_scaling)
