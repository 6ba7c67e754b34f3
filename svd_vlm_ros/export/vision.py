# SPDX-License-Identifier: Apache-2.0
"""`vision.onnx` and `projector.onnx`: CLIP's tower up to the layer that LLaVA looks at.

    pixel_values float32 [1, 3, H, W] -> patches [N, D], class_token [D], class_attention
        [heads, N], keys [N, head size], class_key [head size], all float32
    rows float32 [k, D] -> tokens float32 [k, hidden]

The outputs of the tower are those of `models/llava/vision.py`, so that one graph feeds every
selector before the language model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_vlm_ros.export.graph import Graph
from svd_vlm_ros.export.layers import FLOAT, Weights, activation, layer_norm, linear, weight


def write_clip(graph: Graph, weights: Weights, config: Any, layers: int) -> None:
    """Write a CLIP tower.

    Args:
        graph: takes nodes and weights.
        weights: by the names of transformers' CLIP vision model.
        config: of the tower, transformers' `CLIPVisionConfig`.
        layers: that lead to the features.
    """
    side = config.image_size // config.patch_size
    count, width = side * side, config.hidden_size
    pixels = graph.input("pixel_values", np.float32, [1, 3, config.image_size, config.image_size])
    if graph.compute != FLOAT:
        pixels = graph.cast(pixels, graph.compute)
    with graph.scope("embeddings"):
        kernel = weight(graph, weights, "embeddings.patch_embedding.weight")
        strides = [config.patch_size] * 2
        patches = graph.node("Conv", pixels, kernel, kernel_shape=strides, strides=strides)
        patches = graph.transpose(graph.reshape(patches, [1, width, count]), 0, 2, 1)
        first = graph.weight(
            "embeddings.class_embedding",
            np.asarray(weights.read("embeddings.class_embedding")).reshape(1, 1, width),
        )
        hidden = graph.node("Concat", first, patches, axis=1)
        places = weight(graph, weights, "embeddings.position_embedding.weight")
        hidden = graph.node("Add", hidden, places)
    hidden = layer_norm(graph, weights, "pre_layrnorm", hidden, config.layer_norm_eps)
    for index in range(layers):
        hidden = _layer(graph, weights, config, index, hidden, last=index == layers - 1)
    with graph.scope("features"):
        size = width // config.num_attention_heads
        rows = graph.reshape(hidden, [count + 1, width])
        own, others = graph.split(rows, [1, count], 0)
        _give(graph, "class_token", graph.reshape(own, [width]), [width])
        _give(graph, "patches", others, [count, width])
    graph.output("class_attention", np.float32, [config.num_attention_heads, count])
    graph.output("keys", np.float32, [count, size])
    graph.output("class_key", np.float32, [size])


def write_projector(graph: Graph, weights: Weights, config: Any) -> None:
    """Write LLaVA's projector of two layers, for any number of rows."""
    width, hidden = config.vision_config.hidden_size, config.text_config.hidden_size
    rows = graph.input("rows", np.float32, ["k", width])
    value = rows if graph.compute == FLOAT else graph.cast(rows, graph.compute)
    value = linear(graph, weights, "linear_1", value)
    value = activation(graph, config.projector_hidden_act, value)
    if graph.compute == FLOAT:
        linear(graph, weights, "linear_2", value, gives="tokens")
    else:
        graph.cast(linear(graph, weights, "linear_2", value), np.float32, gives="tokens")
    graph.output("tokens", np.float32, ["k", hidden])


def _layer(graph: Graph, weights: Weights, config: Any, index: int, hidden: str, last: bool) -> str:
    """A layer of the tower over [1, 1 + N, D]; the last one also says how CLS looks at patches."""
    name, epsilon = f"encoder.layers.{index}", config.layer_norm_eps
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    before = layer_norm(graph, weights, f"{name}.layer_norm1", hidden, epsilon)
    with graph.scope(f"{name}.attention"):
        states = []
        for part in ("q_proj", "k_proj", "v_proj"):
            value = linear(graph, weights, f"{name}.self_attn.{part}", before)
            value = graph.reshape(value, [1, -1, heads, size])
            states.append(graph.transpose(value, 0, 2, 1, 3))
        queries, keys, values = states
        queries = graph.node("Mul", queries, graph.number(size**-0.5))
        scores = graph.node("MatMul", queries, graph.transpose(keys, 0, 1, 3, 2))
        looks = graph.node("Softmax", scores, axis=-1)
        seen = graph.transpose(graph.node("MatMul", looks, values), 0, 2, 1, 3)
        seen = graph.reshape(seen, [1, -1, config.hidden_size])
        if last:
            _looks(graph, looks, keys, config)
    hidden = graph.node("Add", hidden, linear(graph, weights, f"{name}.self_attn.out_proj", seen))
    before = layer_norm(graph, weights, f"{name}.layer_norm2", hidden, epsilon)
    inner = linear(graph, weights, f"{name}.mlp.fc1", before)
    inner = activation(graph, config.hidden_act, inner)
    return graph.node("Add", hidden, linear(graph, weights, f"{name}.mlp.fc2", inner))


def _looks(graph: Graph, looks: str, keys: str, config: Any) -> None:
    """Outputs from what CLS looks at, [1, heads, 1 + N, 1 + N], and keys [1, heads, 1 + N, d]."""
    count = (config.image_size // config.patch_size) ** 2
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    row = graph.node("Gather", looks, graph.constant(0), axis=2)
    row = graph.reshape(row, [heads, count + 1])
    _give(graph, "class_attention", graph.split(row, [1, count], 1)[1])
    wide = keys if graph.compute == FLOAT else graph.cast(keys, np.float32)
    mean = graph.node("ReduceMean", wide, graph.constant([0, 1]), keepdims=0)
    own, others = graph.split(mean, [1, count], 0)
    graph.reshape(own, [size], gives="class_key")
    graph.reshape(others, [count, size], gives="keys")


def _give(graph: Graph, name: str, value: str, shape: list[int] | None = None) -> None:
    """Give a value out in float32."""
    if graph.compute == FLOAT:
        graph.node("Identity", value, gives=name)
    else:
        graph.cast(value, np.float32, gives=name)
    if shape is not None:
        graph.output(name, np.float32, shape)
