# SPDX-License-Identifier: Apache-2.0
"""What the graphs are made of: linear layers, norms, activations, attention, in plain operators."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.graph import Graph
from svd_vlm_ros.export.quantize import BLOCK, pack, quantize

HALF, FLOAT = np.dtype(np.float16), np.dtype(np.float32)


class Weights(Protocol):
    """Weights by their names, one in memory at a time."""

    def read(self, name: str) -> np.ndarray:
        """A weight in its own dtype."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is such a weight."""
        ...


def linear(
    graph: Graph,
    weights: Weights,
    name: str,
    value: str,
    bits: int | None = None,
    gives: str | None = None,
) -> str:
    """`value` [..., in] through the linear layer `name`; its bias is added if it has one.

    Args:
        bits: 4 or 8: the weight is quantized in blocks; None: it is not.
        gives: the name of the result.
    """
    with graph.scope(name):
        matrix = np.asarray(weights.read(f"{name}.weight")).T  # [in, out]
        if bits is None:
            factor = graph.weight(f"{name}.weight", matrix)
        else:
            factor = _quantized(graph, f"{name}.weight", matrix, bits)
        del matrix
        if not weights.has(f"{name}.bias"):
            return graph.node("MatMul", value, factor, gives=gives)
        value = graph.node("MatMul", value, factor)
        return graph.node("Add", value, weight(graph, weights, f"{name}.bias"), gives=gives)


def weight(graph: Graph, weights: Weights, name: str) -> str:
    """A weight as it is."""
    return graph.weight(name, weights.read(name))


def _quantized(graph: Graph, name: str, matrix: np.ndarray, bits: int) -> str:
    numbers, scales = quantize(matrix, bits)
    if bits == 4:
        held = graph.tensor(name, pack(numbers), TensorProto.INT4, numbers.shape)
    else:
        held = graph.tensor(name, numbers, TensorProto.INT8, numbers.shape)
    kind = TensorProto.FLOAT16 if graph.compute == HALF else TensorProto.FLOAT
    steps = graph.tensor(f"{name}.scale", scales.astype(graph.compute), kind, scales.shape)
    return graph.node("DequantizeLinear", held, steps, axis=0, block_size=BLOCK)


def rms_norm(graph: Graph, weights: Weights, name: str, value: str, epsilon: float) -> str:
    """As transformers' Llama: the mean square in float32, the weight in the activations' dtype."""
    with graph.scope(name):
        wide = value if graph.compute == FLOAT else graph.cast(value, np.float32)
        square = graph.node("Pow", wide, graph.constant(2.0, np.float32))
        mean = graph.node("ReduceMean", square, graph.constant([-1]), keepdims=1)
        added = graph.node("Add", mean, graph.constant(epsilon, np.float32))
        wide = graph.node("Div", wide, graph.node("Sqrt", added))
        narrow = wide if graph.compute == FLOAT else graph.cast(wide, graph.compute)
        return graph.node("Mul", narrow, weight(graph, weights, f"{name}.weight"))


def layer_norm(graph: Graph, weights: Weights, name: str, value: str, epsilon: float) -> str:
    """LayerNormalization over the last axis."""
    with graph.scope(name):
        factors = (weight(graph, weights, f"{name}.{part}") for part in ("weight", "bias"))
        return graph.node("LayerNormalization", value, *factors, axis=-1, epsilon=epsilon)


def activation(graph: Graph, kind: Any, value: str) -> str:
    """An activation by transformers' name. Raises `UserError` if it is not known here."""
    if kind in ("silu", "swish"):
        return graph.node("Mul", value, graph.node("Sigmoid", value))
    if kind == "quick_gelu":
        wide = graph.node("Mul", value, graph.number(1.702))
        return graph.node("Mul", value, graph.node("Sigmoid", wide))
    if kind == "gelu":
        scaled = graph.node("Div", value, graph.number(math.sqrt(2)))
        risen = graph.node("Add", graph.node("Erf", scaled), graph.number(1.0))
        return graph.node("Mul", graph.node("Mul", value, risen), graph.number(0.5))
    raise UserError(f"The activation '{kind}' can't be exported yet.")
