# SPDX-License-Identifier: Apache-2.0
"""The language model that the tiny random models of all families have: for tests, not answers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# The wide initialisation makes the answers depend on the image, as a trained model's do.
TINY_TEXT: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.2,
    }
)
"""For the configurations of transformers' language models of Llama's kind, by their names."""
