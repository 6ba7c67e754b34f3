# SPDX-License-Identifier: Apache-2.0
"""Operators: those that the graphs are made of, and those that TensorRT's parser reads."""

from __future__ import annotations

from pathlib import Path

PLAIN = (
    *("Add", "Cast", "Concat", "Conv", "Cos", "DequantizeLinear", "Div", "Erf", "Gather"),
    *("Identity", "LayerNormalization", "LessOrEqual", "MatMul", "Mul", "Neg", "Pow", "Range"),
    *("ReduceMean", "Reshape", "Shape", "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt"),
    *("Transpose", "Unsqueeze", "Where"),
)
"""The operators of the exported graphs: standard ones alone."""

TENSORRT_SOURCE = "onnx-tensorrt, docs/operators.md of 10.1-GA"
TENSORRT = frozenset(
    (Path(__file__).parent / "templates" / "tensorrt_operators.txt").read_text().split()
)
"""What the parser of TensorRT 10.1 reads, older than any on a Jetson with JetPack 6 or later."""

TENSORRT_CONSTANTS = {"ReduceMean": (1,), "Slice": (3,), "Unsqueeze": (1,)}
"""Inputs, counted from 0, that must be constants if they are there, by the same list."""
