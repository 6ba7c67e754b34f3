# SPDX-License-Identifier: Apache-2.0
"""The operators that the graphs are made of: standard ones alone, which TensorRT's parser knows."""

PLAIN = (
    *("Add", "Cast", "Concat", "Conv", "Cos", "DequantizeLinear", "Div", "Erf", "Gather"),
    *("Identity", "LayerNormalization", "LessOrEqual", "MatMul", "Mul", "Neg", "Pow", "Range"),
    *("ReduceMean", "Reshape", "Shape", "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt"),
    *("Transpose", "Unsqueeze", "Where"),
)
