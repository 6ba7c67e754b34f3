# SPDX-License-Identifier: Apache-2.0
"""Models with a true architecture and random weights: for speed, memory and tests, not answers.

They are built layer by layer, each quantized before the next is made, so that the 7B architecture
in int4 needs no more memory than its weights in int4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.heap import give_back
from svd_vlm_ros.models.llava.architecture import text_config
from svd_vlm_ros.models.weights.precision import QUANTIZED, quantize_linears
from svd_vlm_ros.planning.config_defaults import CLIP_LARGE_336

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

RANDOM_MODELS = ("random:tiny", "random:llava-1.5-7b")
_TINY = "random:tiny"
_SHORTENED = re.compile(r"(random:llava-1\.5-7b)(?::([1-9]\d?))?")


def is_known(name: str) -> bool:
    """Whether `random_config` has this architecture."""
    return name == _TINY or _SHORTENED.fullmatch(name) is not None


def random_config(name: str) -> LlavaConfig:
    """The architecture of a random model; its image and end tokens are those of its tokenizer.

    `random:llava-1.5-7b` is LLaVA-1.5-7B in every size, the vocabulary among them;
    `random:llava-1.5-7b:8` has 8 of its 32 decoder layers, for machines that hold no more.
    `random:tiny` has 576 patches of 336 x 336 pixels too, and thousands of times fewer weights.

    Raises:
        UserError: the name is not known.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    shortened = _SHORTENED.fullmatch(name)
    if shortened:
        vision = CLIPVisionConfig(**CLIP_LARGE_336, num_attention_heads=16, projection_dim=768)
        text = LlamaConfig(
            vocab_size=32064,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=int(shortened[2] or 32),
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
        )
    elif name == _TINY:
        # The wide initialisation makes the answers depend on the image, as a trained model's do.
        vision = CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=336,
            patch_size=14,
            projection_dim=64,
        )
        text = LlamaConfig(
            vocab_size=256,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.2,
        )
    else:
        raise UserError(
            f"There is no random model '{name}': take one of {', '.join(RANDOM_MODELS)}."
        )
    return LlavaConfig(vision_config=vision, text_config=text)


def build_random(
    config: LlavaConfig,
    precision: str,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    take: Callable[[int, nn.Module], None] | None = None,
) -> LlavaForConditionalGeneration:
    """Build a LLaVA with random weights.

    The same seed gives the same weights on the same kind of device, in each precision that shares
    the dtype (quantized models start from the weights of the unquantized one).

    Args:
        config: the architecture. It is used by the model and not changed.
        precision: one of `precision.PRECISIONS`.
        dtype: of all that is not quantized.
        device: where the weights are made and stay.
        seed: of the weights. The global random state is left as it was.
        take: is given each decoder layer and its index instead of the model, which then has none:
            an export holds one at a time.
    """
    from transformers import LlavaForConditionalGeneration
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    text = text_config(config)
    layers = text.num_hidden_layers
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        text.num_hidden_layers = 0
        try:
            with torch.device(device):
                model = LlavaForConditionalGeneration._from_config(config, dtype=dtype)
        finally:
            text.num_hidden_layers = layers
        decoder = model.model.language_model
        decoder.config.num_hidden_layers = layers
        for index in range(layers):
            with torch.device(device), _default_dtype(dtype):
                layer = LlamaDecoderLayer(decoder.config, index).requires_grad_(False)
            _randomise(layer, text.initializer_range)
            # Not under the default dtype: bitsandbytes makes its tables in it.
            if precision in QUANTIZED:
                quantize_linears(layer, precision, dtype)
                give_back()
            if take is None:
                decoder.layers.append(layer)
            else:
                take(index, layer)
    return cast("LlavaForConditionalGeneration", model)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _randomise(layer: nn.Module, std: float) -> None:
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0.0, std)
            if module.bias is not None:
                module.bias.zero_()
