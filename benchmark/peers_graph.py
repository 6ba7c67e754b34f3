# SPDX-License-Identifier: Apache-2.0
"""LLaVA's language model and vision tower as ONNX graphs of plain operators, written one weight at
a time: a graph of any size needs no more memory than its largest weight.

The language model takes n embeddings, the rotary angles of their positions, a mask, and the keys
and values of what was read before; it gives the logits of the last row and the longer cache.

* fp32: `Gemm`.
* int8: what onnxruntime's `quantize_dynamic` makes, with a scale for each output: the rows are
  quantized as they come (`DynamicQuantizeLinear`), and the product is `MatMulInteger`.
* int4: what its `MatMulNBits` quantizer makes: blocks of 32, symmetric, accuracy level 4, in which
  rows are quantized to int8, too. Other levels compute in float32 and are many times as slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from peers_common import (
    EPSILON,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    IMAGE_SIZE,
    PATCH,
    PATCHES,
    VISION_EPSILON,
    VISION_HEADS,
    VISION_HIDDEN,
    VISION_LAYERS,
    Weights,
)

OPSET, IR = 20, 10
BLOCK = 32
INLINE = 1024  # bytes; larger constants go into the data file
ALIGN = 4096
LAST = 2**31 - 1


class Graph:
    """A graph in the making, at `path`, with its data file beside it."""

    def __init__(self, path: Path, precision: str) -> None:
        self.path, self.precision = path, precision
        self._data = path.with_suffix(".data").open("wb")
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._quantized: dict[str, tuple[str, str, str]] = {}

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append an operator; the name of its output, or names."""
        names = [f"{kind}_{len(self._nodes)}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant."""
        name = f"constant_{len(self._constants)}"
        if array.nbytes <= INLINE:
            self._constants.append(numpy_helper.from_array(array, name))
            return name
        self._data.seek(-(-self._data.tell() // ALIGN) * ALIGN)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self.path.with_suffix(".data").name, "offset": self._data.tell()}
        for key, value in {**place, "length": array.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        np.ascontiguousarray(array).tofile(self._data)
        self._constants.append(tensor)
        return name

    def numbers(self, values: Sequence[int]) -> str:
        return self.constant(np.array(values, np.int64))

    def floats(self, values: Any) -> str:
        return self.constant(np.asarray(values, np.float32))

    def linear(self, rows: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """Multiply rows [n, inputs] by a weight [outputs, inputs] in the graph's precision; a bias
        in fp32 alone.
        """
        weight = weight.astype(np.float32)
        if self.precision == "int8":
            return self._linear_int8(rows, weight)
        if self.precision == "int4":
            return self._linear_int4(rows, weight)
        # Not MatMul, which wants weights the other way round: OpenVINO would turn them back.
        constants = [self.floats(each) for each in (weight, bias) if each is not None]
        found: str = self.add("Gemm", rows, *constants, transB=1)
        return found

    def _linear_int8(self, rows: str, weight: np.ndarray) -> str:
        if rows not in self._quantized:  # queries, keys and values are made of the same rows
            self._quantized[rows] = tuple(self.add("DynamicQuantizeLinear", rows, outputs=3))
        levels, step, zero = self._quantized[rows]
        scale = np.abs(weight).max(axis=1) / 127
        whole = np.rint(weight / scale[:, None]).astype(np.int8)
        zeros = self.constant(np.zeros(len(weight), np.int8))
        product = self.add("MatMulInteger", levels, self.constant(whole.T), zero, zeros)
        steps = self.add("Mul", step, self.constant(scale))
        found: str = self.add("Mul", self.add("Cast", product, to=TensorProto.FLOAT), steps)
        return found

    def _linear_int4(self, rows: str, weight: np.ndarray) -> str:
        outputs, count = weight.shape
        blocks = weight.reshape(outputs, count // BLOCK, BLOCK)
        furthest = np.abs(blocks).argmax(axis=2)[..., None]
        scale = np.take_along_axis(blocks, furthest, axis=2) / -8  # the far end is level -8
        levels = (np.rint(blocks / scale) + 8).clip(0, 15).astype(np.uint8)
        packed = levels[..., ::2] | levels[..., 1::2] << 4
        constants = self.constant(packed), self.constant(scale.reshape(-1))
        sizes = {"K": count, "N": outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
        domain = "com.microsoft"
        found: str = self.add("MatMulNBits", rows, *constants, domain=domain, **sizes)
        return found

    def split(self, rows: str, heads: int) -> str:
        """[n, heads * size] as [1, heads, n, size]."""
        shaped = self.add("Reshape", rows, self.numbers([1, -1, heads, HEAD_SIZE_OF[heads]]))
        found: str = self.add("Transpose", shaped, perm=[0, 2, 1, 3])
        return found

    def attend(self, queries: str, keys: str, values: str, mask: str | None, heads: int) -> str:
        """Softmax attention of [1, heads, n, size]; returns [n, heads * size]."""
        size = HEAD_SIZE_OF[heads]
        turned = self.add("Transpose", keys, perm=[0, 1, 3, 2])
        scores = self.add("MatMul", queries, turned)
        scores = self.add("Mul", scores, self.floats(size**-0.5))
        if mask is not None:
            scores = self.add("Add", scores, mask)
        seen = self.add("MatMul", self.add("Softmax", scores, axis=-1), values)
        seen = self.add("Transpose", seen, perm=[0, 2, 1, 3])
        found: str = self.add("Reshape", seen, self.numbers([-1, heads * size]))
        return found

    def save(self, inputs: dict[str, list[Any]], outputs: dict[str, str]) -> None:
        """Write the graph: inputs by shape, outputs by the names that they have inside."""
        for name, inside in outputs.items():
            self._nodes.append(helper.make_node("Identity", [inside], [name]))
        ends = [
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in side.items()]
            for side in (inputs, dict.fromkeys(outputs))
        ]
        graph = helper.make_graph(self._nodes, "graph", *ends, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR), self.path)
        self._data.close()


HEAD_SIZE_OF = {HEADS: HEAD_SIZE, VISION_HEADS: VISION_HIDDEN // VISION_HEADS}


def write_decoder(path: Path, weights: Weights, precision: str) -> None:
    """The language model from embeddings to logits."""
    graph = Graph(path, precision)
    inputs: dict[str, list[Any]] = {
        "rows": ["n", HIDDEN],
        "cosines": ["n", HEAD_SIZE],
        "sines": ["n", HEAD_SIZE],
        "mask": ["n", "all"],
    }
    outputs = {}
    hidden = "rows"
    for layer in range(weights.layers):
        name = f"layers.{layer}"

        def linear(rows: str, part: str, name: str = name) -> str:
            return graph.linear(rows, weights[f"{name}.{part}_proj.weight"])

        normed = _root_mean_square(graph, hidden, weights[f"{name}.input_layernorm.weight"])
        states = [graph.split(linear(normed, f"self_attn.{part}"), HEADS) for part in "qkv"]
        queries, keys, values = *(_rotate(graph, each) for each in states[:2]), states[2]
        for offset, new in enumerate((keys, values)):
            past, number = f"past_{2 * layer + offset}", 2 * layer + offset
            inputs[past] = [1, HEADS, "held", HEAD_SIZE]
            outputs[f"present_{number}"] = graph.add("Concat", past, new, axis=2)
        keys, values = (outputs[f"present_{2 * layer + offset}"] for offset in (0, 1))
        seen = graph.attend(queries, keys, values, "mask", HEADS)
        hidden = graph.add("Add", hidden, linear(seen, "self_attn.o"))
        normed = _root_mean_square(
            graph, hidden, weights[f"{name}.post_attention_layernorm.weight"]
        )
        gate = linear(normed, "mlp.gate")
        gate = graph.add("Mul", gate, graph.add("Sigmoid", gate))
        gated = graph.add("Mul", gate, linear(normed, "mlp.up"))
        hidden = graph.add("Add", hidden, linear(gated, "mlp.down"))
    places = (graph.numbers([value]) for value in (-1, LAST, 0))
    last = _root_mean_square(graph, graph.add("Slice", hidden, *places), weights["norm.weight"])
    logits = graph.linear(last, weights["lm_head.weight"])
    graph.save(inputs, {"logits": logits, **outputs})


def _root_mean_square(graph: Graph, rows: str, weight: np.ndarray) -> str:
    squares = graph.add("Pow", rows, graph.floats(2.0))
    mean = graph.add("ReduceMean", squares, graph.numbers([-1]))
    root = graph.add("Sqrt", graph.add("Add", mean, graph.floats(EPSILON)))
    found: str = graph.add("Mul", graph.add("Div", rows, root), graph.floats(weight))
    return found


def _rotate(graph: Graph, states: str) -> str:
    def half(begin: int, end: int) -> str:
        cut = (graph.numbers([value]) for value in (begin, end, 3))
        found: str = graph.add("Slice", states, *cut)
        return found

    middle = HEAD_SIZE // 2
    turned = graph.add("Concat", graph.add("Neg", half(middle, LAST)), half(0, middle), axis=3)
    straight = graph.add("Mul", states, "cosines")
    found: str = graph.add("Add", straight, graph.add("Mul", turned, "sines"))
    return found


def write_tower(path: Path, weights: Weights) -> None:
    """CLIP's vision tower from pixels to the patches that LLaVA looks at, in fp32."""
    graph = Graph(path, "fp32")

    def weight(name: str) -> np.ndarray:
        return weights[f"vision.{name}"]

    def norm(rows: str, name: str) -> str:
        parts = (graph.floats(weight(f"{name}.{part}")) for part in ("weight", "bias"))
        found: str = graph.add("LayerNormalization", rows, *parts, epsilon=VISION_EPSILON)
        return found

    def linear(rows: str, name: str) -> str:
        return graph.linear(rows, weight(f"{name}.weight"), weight(f"{name}.bias"))

    filters = graph.floats(weight("embeddings.patch_embedding.weight"))
    patches = graph.add("Conv", "pixels", filters, strides=[PATCH, PATCH])
    patches = graph.add("Reshape", patches, graph.numbers([VISION_HIDDEN, PATCHES]))
    patches = graph.add("Transpose", patches, perm=[1, 0])
    first = graph.floats(weight("embeddings.class_embedding")[None])
    places = graph.floats(weight("embeddings.position_embedding.weight"))
    hidden = graph.add("Add", graph.add("Concat", first, patches, axis=0), places)
    hidden = norm(hidden, "pre_layrnorm")
    for layer in range(VISION_LAYERS):
        name = f"encoder.layers.{layer}"
        normed = norm(hidden, f"{name}.layer_norm1")
        parts = [linear(normed, f"{name}.self_attn.{part}_proj") for part in "qkv"]
        states = [graph.split(part, VISION_HEADS) for part in parts]
        seen = graph.attend(states[0], states[1], states[2], None, VISION_HEADS)
        hidden = graph.add("Add", hidden, linear(seen, f"{name}.self_attn.out_proj"))
        inner = linear(norm(hidden, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
        gate = graph.add("Sigmoid", graph.add("Mul", inner, graph.floats(1.702)))
        inner = graph.add("Mul", inner, gate)
        hidden = graph.add("Add", hidden, linear(inner, f"{name}.mlp.fc2"))
    cut = (graph.numbers([value]) for value in (1, LAST, 0))
    features = graph.add("Slice", hidden, *cut)
    graph.save({"pixels": [1, 3, IMAGE_SIZE, IMAGE_SIZE]}, {"features": features})
