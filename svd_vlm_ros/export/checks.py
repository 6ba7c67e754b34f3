# SPDX-License-Identifier: Apache-2.0
"""What every written graph is held to: ONNX's own rules, the operators, what is quantized."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

from svd_vlm_ros.export.operators import PLAIN


def check_graph(path: Path, quantized: int) -> None:
    """Raise `RuntimeError` unless a graph is valid, plain, and quantized as it should be.

    Args:
        path: of the graph, its weights beside it.
        quantized: products with a quantized weight that there must be.
    """
    try:
        onnx.checker.check_model(str(path))  # by its path: read first, it may be above 2 GB
    except onnx.checker.ValidationError as error:
        raise RuntimeError(f"the exported {path.name} is not valid: {error}") from error
    kinds = operators(path)
    if strange := sorted(set(kinds) - set(PLAIN)):
        raise RuntimeError(f"the exported {path.name} has the operator {strange[0]}")
    found = quantized_products(path)
    if found != quantized or kinds["DequantizeLinear"] != quantized:
        raise RuntimeError(
            f"the exported {path.name} has {found} products with quantized weights, not {quantized}"
        )


def operators(path: Path) -> Counter[str]:
    """How many nodes of each operator a graph has, those of other domains as domain:name."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return Counter(
        f"{node.domain}:{node.op_type}" if node.domain else node.op_type for node in nodes
    )


def quantized_products(path: Path) -> int:
    """How many MatMuls have a weight of blocks."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    blocks = {
        node.output[0]
        for node in nodes
        if node.op_type == "DequantizeLinear"
        and any(each.name == "block_size" and each.i > 0 for each in node.attribute)
    }
    return sum(node.op_type == "MatMul" and node.input[1] in blocks for node in nodes)
