# SPDX-License-Identifier: Apache-2.0
"""Language models of several kinds as graphs, against transformers' own forward pass."""

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.checks import check_graph
from svd_vlm_ros.export.decoder import DecoderShape, DecoderWriter
from svd_vlm_ros.export.graph import Graph

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
    "llama-grouped": LlamaConfig(**SIZES),
    "llama-one-key-head": LlamaConfig(**SIZES | {"num_key_value_heads": 1}),
    "llama-head-size": LlamaConfig(**SIZES, head_dim=24),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-linear": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
    ),
    "llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama-yarn": LlamaConfig(**SIZES, rope_parameters=YARN),
    "llama-tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2-biases": Qwen2Config(**SIZES),
    "qwen3-head-norms": Qwen3Config(**SIZES, head_dim=16),
}


class StateDict:
    """A model's weights under the names that the writer asks for."""

    def __init__(self, model):
        self.held = {
            name.removeprefix("model."): each.numpy() for name, each in model.state_dict().items()
        }

    def has(self, name):
        return name in self.held

    def read(self, name):
        return self.held[name]


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_the_graph_computes_what_transformers_does(kind, tmp_path):
    config = CONFIGS[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.requires_grad_(False)
    for name, weight in model.named_parameters():
        if "norm" in name or name.endswith("bias"):  # else ones and zeros, which hide mistakes
            weight.normal_(1.0 if "norm" in name else 0.0, 0.3)
    path = tmp_path / "decoder.onnx"
    shape = DecoderShape.from_config(config)
    with Graph(path, opset=20, compute=np.float32) as graph:
        writer = DecoderWriter(graph, shape, StateDict(model), None)
        writer.begin()
        for index in range(shape.layers):
            writer.layer(index)
        writer.finish()
    check_graph(path, 0)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    embeds = rng.normal(size=(17, 64)).astype(np.float32)
    places = np.sort(rng.choice(120, 17, replace=False))
    wanted = model(
        inputs_embeds=torch.from_numpy(embeds)[None],
        position_ids=torch.from_numpy(places)[None],
        attention_mask=torch.full((17, 17), -torch.inf).triu(1)[None, None],
        use_cache=False,
    ).logits[0]
    names = [each.name for each in session.get_inputs()][3:]
    cache = {name: np.zeros((1, shape.kv_heads, 0, shape.head_dim), np.float32) for name in names}
    done = 0
    for count in (9, 7, 1):
        part = slice(done, done + count)
        inputs = {
            "inputs_embeds": embeds[None, part],
            "position_ids": places[None, part],
            "rows": np.arange(count),
        }
        logits, *present = session.run(None, inputs | cache)
        cache = dict(zip(names, present, strict=True))
        np.testing.assert_allclose(logits, wanted[part].numpy(), rtol=1e-4, atol=1e-4)
        done += count


def test_what_can_t_be_written_is_named():
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    for config, match in (
        (LlamaConfig(**SIZES, rope_parameters=dynamic), "rotary embedding of the kind 'dynamic'"),
        (Qwen2Config(**SIZES, use_sliding_window=True, max_window_layers=0), "sliding windows"),
    ):
        with pytest.raises(UserError, match=match):
            DecoderShape.from_config(config)
    from transformers import Gemma3TextConfig

    with pytest.raises(UserError, match="'gemma3_text' can't be exported yet"):
        DecoderShape.from_config(Gemma3TextConfig())
