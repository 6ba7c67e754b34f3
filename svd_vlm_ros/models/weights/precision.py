# SPDX-License-Identifier: Apache-2.0
"""Which numbers the weights are made of, and what exactly is quantized.

int8 and int4 quantize the linear layers of the language model's decoder, through bitsandbytes, and
nothing else, in every family. In LLaVA-1.5-7B they hold 6.48 of 7.06 billion parameters. The vision
encoder and the connector stay as they are: they are 5 % of the weights, every token depends on
them, and SVD-Prune looks at their numbers: quantization must not move the kept patches. The output
head (`lm_head`) stays too, as it does by default in transformers: its errors go straight into the
answer.

* int8: vector-wise, with `threshold=0.0`. The mixed-precision path for outliers (6.0 by default)
  halves the speed and waits for the device in each layer.
* int4: NF4 with double quantization (the scales of blocks of 64 are quantized as well: 4.13 instead
  of 4.5 bits a weight, 0.3 GB less for 7 billion).

What is not quantized computes in the dtype that `compute_dtype` gives.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from svd_vlm_ros.cpu import computes_bfloat16
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.weights.packed import Packed, is_quantized

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4")
QUANTIZED = ("int8", "int4")
LIBRARIES = ("bitsandbytes", "accelerate")  # what quantizing needs
LANGUAGE = "language_model"  # the component that is quantized; see `LoadedModel.components`
HEAD = "lm_head"
INT8_THRESHOLD = 0.0
INT4_TYPE = "nf4"
INT4_DOUBLE = True
INT4_BLOCK = 64  # weights that share a scale; on the CPU no block may span two rows
_TABLES = ("absmax", "code", "offset")  # what bitsandbytes keeps beside 4-bit weights


def check_precision(precision: str, known: Sequence[str] = PRECISIONS) -> None:
    """Raise `UserError` where a precision is not known or its library is missing."""
    if precision not in known:
        raise UserError(f"There is no precision '{precision}': take one of {', '.join(known)}.")
    if precision in QUANTIZED:
        for library in LIBRARIES:
            if importlib.util.find_spec(library) is None:
                raise UserError(
                    f"{precision} needs {library}, which is not installed: "
                    f"'pip install {library}', or take bf16."
                )


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of activations and of the weights that are not quantized.

    bfloat16 wherever there is a choice: it has the range of float32. On CUDA int8 runs in float16,
    since that is what bitsandbytes' int8 kernels take; bfloat16 would be cast in each layer. On a
    CPU that emulates bfloat16, int8 and int4 run in float32; what is not quantized is then laid out
    in 16 bits (`packed.py`).
    """
    if precision == "fp32":
        return torch.float32
    if precision in QUANTIZED and device.type == "cpu" and not computes_bfloat16():
        return torch.float32
    if precision == "fp16" or (precision == "int8" and device.type == "cuda"):
        return torch.float16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        if precision == "bf16":
            raise UserError("This GPU does not compute in bfloat16: take fp16, int8 or int4.")
        return torch.float16
    return torch.bfloat16


def quantization_config(
    precision: str, dtype: torch.dtype, components: Mapping[str, tuple[str, ...]]
) -> Any:
    """What `from_pretrained` takes to quantize while it loads; None for the float precisions.

    Args:
        precision: one of `PRECISIONS`.
        dtype: of what is not quantized.
        components: see `LoadedModel.components`. Full names: a part of one would match nothing,
            silently, and naming any replaces the default of transformers, which leaves out lm_head.
    """
    if precision not in QUANTIZED:
        return None
    import_bitsandbytes()
    from transformers import BitsAndBytesConfig

    others = [name for key, names in components.items() if key != LANGUAGE for name in names]
    if precision == "int8":
        return BitsAndBytesConfig(
            load_in_8bit=True,
            llm_int8_threshold=INT8_THRESHOLD,
            llm_int8_skip_modules=others,
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=INT4_TYPE,
        bnb_4bit_use_double_quant=INT4_DOUBLE,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=others,
    )


def quantize_linears(module: nn.Module, precision: str, dtype: torch.dtype) -> None:
    """Replace each linear layer below `module` by a quantized one, on the same device, in place.

    For models that are built here layer by layer; `quantization_config` does the same to models
    that are read from files.
    """
    import_bitsandbytes()
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    for name, linear in list(module.named_modules()):
        if type(linear) is not nn.Linear:
            continue
        device, bias = linear.weight.device, linear.bias
        sizes = linear.in_features, linear.out_features, bias is not None
        weight = linear.weight.detach().cpu()  # on its way to the device it is quantized
        made: nn.Module
        if precision == "int8":
            made = Linear8bitLt(
                *sizes, has_fp16_weights=False, threshold=INT8_THRESHOLD, device="meta"
            )
            made.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            made = Linear4bit(*sizes, compute_dtype=dtype, device="meta")
            made.weight = Params4bit(
                weight,
                requires_grad=False,
                compress_statistics=INT4_DOUBLE,
                quant_type=INT4_TYPE,
                module=made,
            )
        made.bias = bias
        module.set_submodule(name, made.to(device))


def import_bitsandbytes() -> None:
    """Import bitsandbytes without its network and without its chatter. Do this before any other.

    On some CPUs bitsandbytes fetches a kernel from a hub while it is imported, where the package
    `kernels` is installed, and runs it. Nothing is fetched here, so it is told that there is none.
    It also says for each int8 layer and call that it casts to float16, hundreds of times; nothing
    can be done about that, since on a CPU float16 is slow for all the rest.
    """
    for name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).addFilter(_is_news)
    if "bitsandbytes" in sys.modules:
        return
    kernels = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("bitsandbytes")
    finally:
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "inputs will be cast" not in message and "kernels-community" not in message


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights and buffers, with the scales and tables of the quantized ones."""
    total = sum(buffer.nbytes for buffer in model.buffers())
    total += sum(layer.held_bytes for layer in model.modules() if isinstance(layer, Packed))
    for weight in model.parameters():
        total += weight.nbytes
        scales = getattr(weight, "SCB", None)
        state = getattr(weight, "quant_state", None)
        nested = getattr(state, "state2", None)
        total += sum(
            found.nbytes
            for found in (scales, *(getattr(s, n, None) for s in (state, nested) for n in _TABLES))
            if isinstance(found, torch.Tensor)
        )
    return total


def check_widths(config: Any, precision: str) -> None:
    """Raise `UserError` where a language model's layers are too odd for bitsandbytes' int4."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    widths = config.hidden_size, config.intermediate_size, heads * head
    if precision == "int4" and any(width % INT4_BLOCK for width in widths):
        raise UserError(
            f"int4 needs layers with multiples of {INT4_BLOCK} inputs, this model has {widths}: "
            "take int8."
        )


def quantized_layers(
    model: nn.Module, components: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[int, int]]:
    """How many linear layers of each component are quantized, and how many it has.

    Args:
        model: all of it.
        components: see `LoadedModel.components`.

    Returns:
        {component: (quantized, all)}.
    """
    counts: dict[str, tuple[int, int]] = {}
    for component, names in components.items():
        modules = (part for name in names for part in model.get_submodule(name).modules())
        layers = [part for part in modules if isinstance(part, nn.Linear)]
        counts[component] = sum(is_quantized(layer) for layer in layers), len(layers)
    return counts


def check_quantized(
    model: nn.Module, precision: str, components: Mapping[str, tuple[str, ...]]
) -> None:
    """Raise `RuntimeError` unless exactly the decoder's linear layers are quantized."""
    for component, (quantized, total) in quantized_layers(model, components).items():
        wanted = total if component == LANGUAGE and precision in QUANTIZED else 0
        if quantized != wanted:
            raise RuntimeError(
                f"in {precision}, {quantized} of {total} linear layers of {component} are "
                f"quantized, not {wanted}: this version of bitsandbytes does not serve"
            )
