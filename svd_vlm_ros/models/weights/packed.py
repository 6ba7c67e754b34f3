# SPDX-License-Identifier: Apache-2.0
"""Weights laid out for this CPU, so that its kernels read them as they lie.

torch multiplies by a matrix that is stored row by row, as every file has it, and its libraries lay
it out anew in each call, block by block. For hundreds of rows that is lost in the work; for the few
rows of a question or the one of a token it takes longer than the product. Here each layer is laid
out once, when it is loaded. It takes no memory: each layer's own weights are let go before the next
is laid out. Which way is fast depends on the CPU (`docs/performance.md` has the figures):

* With instructions for bfloat16: bfloat16 by oneDNN, the same numbers to the last bit. NF4 stays
  with bitsandbytes, which has fast products for such CPUs alone, and float32 as it is.
* Without: NF4 by this package's own kernels (AVX2, VNNI, NEON with dot product), and what is not
  quantized in float16 with float32 activations, by FBGEMM (with AVX-512 the tower stays float32).
  In float32 the large layers of the language model are laid out, by oneDNN; the tower, which always
  reads hundreds of rows, and small layers, where the call costs more than the product, are not.
* int8: with AVX-512 and VNNI by oneDNN, bitsandbytes' weights, scales and levels; else by this
  package's kernels.

All stays as it was loaded where an operator is missing or a probe finds it not exact. Import this
only after `precision.import_bitsandbytes()` where layers are quantized.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from svd_vlm_ros.cpu import computes_bfloat16, has_avx512
from svd_vlm_ros.models.weights import kernels, packed_layers
from svd_vlm_ros.models.weights.packed_layers import (
    LEVELS,
    ZERO,
    BlockInt8,
    BlockNf4,
    Packed,
    PackedHalf,
    PackedInt8,
    PackedLinear,
)

X86 = ("x86_64", "AMD64")
LARGE = 1 << 20  # weights of a layer in float32 from which on laying out gains
Maker = Callable[[nn.Linear], Packed]

__all__ = ["Packed", "pack", "unpacked"]


def pack(model: nn.Module) -> int:
    """Lay out the linear layers below a model on a CPU, in place.

    Returns:
        How many were laid out; 0 on any other device, and where this CPU gains nothing.
    """
    quantized = any(is_quantized(layer) for layer in model.modules())

    def wanted(name: str, layer: nn.Module) -> Callable[[], nn.Module] | None:
        if not isinstance(layer, nn.Linear) or isinstance(layer, Packed):
            return None
        if layer.weight.device.type != "cpu":
            return None
        maker = _maker(name, layer, quantized)
        return None if maker is None else functools.partial(maker, layer)

    return _replace(model, wanted)


@contextmanager
def unpacked(model: nn.Module) -> Iterator[None]:
    """Give a model the layers back that it was loaded with, until the block ends.

    Both ways take a few seconds for 7 billion weights.
    """
    changed = _replace(model, lambda _, layer: layer.unpack if isinstance(layer, Packed) else None)
    try:
        yield
    finally:
        if changed:
            pack(model)


def is_quantized(layer: nn.Module) -> bool:
    """Whether a linear layer has weights of less than 16 bits, laid out or not."""
    if isinstance(layer, Packed):
        return layer.quantized
    # bitsandbytes' layers are subclasses; without them the library need not be there.
    return isinstance(layer, nn.Linear) and type(layer) is not nn.Linear


def _replace(
    model: nn.Module, wanted: Callable[[str, nn.Module], Callable[[], nn.Module] | None]
) -> int:
    """Replace layers one by one, so that only one of them is in memory twice."""
    names = [name for name, layer in model.named_modules() if wanted(name, layer)]
    for name in names:
        make = wanted(name, model.get_submodule(name))
        assert make is not None
        model.set_submodule(name, make())
        del make  # it holds the layer that was replaced
    return len(names)


def _maker(name: str, layer: nn.Linear, beside_quantized: bool) -> Maker | None:
    """What lays out a layer; None: nothing."""
    kind, dtype = type(layer).__name__, layer.weight.dtype
    if kind == "Linear8bitLt":
        if packs_int8():
            return PackedInt8
        return BlockInt8 if multiplies_bytes() else None
    if kind == "Linear4bit":
        return BlockNf4 if not computes_bfloat16() and multiplies_bytes() else None
    if type(layer) is not nn.Linear:
        return None
    if dtype == torch.bfloat16 and has_avx512() and packs_bfloat16():
        return PackedLinear
    if dtype == torch.float32 and not computes_bfloat16():
        if beside_quantized:
            # For the hundreds of rows of the tower FBGEMM is slower than float32 with AVX-512.
            stays = has_avx512() and "vision_tower" in name
            return PackedHalf if packs_half() and not stays else None
        large = layer.weight.numel() >= LARGE and "language_model" in name
        return PackedLinear if large and packs_float32() else None
    return None


@functools.cache
def packs_bfloat16() -> bool:
    """Whether this torch and this CPU multiply by laid out bfloat16, exactly as by others."""
    return _packs(torch.bfloat16, torch.equal)


@functools.cache
def packs_float32() -> bool:
    """Whether they multiply by laid out float32; its sums may be in another order."""
    return _packs(torch.float32, lambda one, other: torch.allclose(one, other, atol=1e-4))


def _packs(dtype: torch.dtype, same: Callable[[Tensor, Tensor], bool]) -> bool:
    # Not asked of an ARM CPU: there oneDNN hands on to another library, which nobody has looked at.
    if platform.machine() not in X86:
        return False
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        rows, weight = _sample(dtype)
        packed = packed_layers.lay_out(weight)
        product = packed_layers.multiply(rows, packed, None)
        right = same(product, nn.functional.linear(rows, weight))
        return right and torch.equal(packed.to_dense(), weight)
    except (AttributeError, RuntimeError):
        return False


@functools.cache
def packs_half() -> bool:
    """Whether this torch multiplies float32 by weights in float16 (FBGEMM: x86)."""
    try:
        rows, weight = _sample(torch.float32)
        product = packed_layers.multiply_half(rows, packed_layers.pack_half(weight, None))
        rounded = weight.half().float()
        return torch.allclose(product, nn.functional.linear(rows, rounded), atol=1e-4)
    except (AttributeError, RuntimeError):
        return False


@functools.cache
def packs_int8() -> bool:
    """Whether this torch and this CPU multiply bytes exactly: oneDNN with AVX-512 and VNNI.

    Without VNNI instructions sums of two products overflow.
    """
    if not has_avx512():
        return False
    try:
        rows, weight = _sample(torch.float32)
        levels = torch.where(rows > 0, 255, 1).to(torch.uint8)  # the ends of the range
        whole = torch.where(weight > 0, LEVELS, -LEVELS).to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(whole, None)
        product = packed_layers.multiply_int8(levels, packed, torch.ones(len(whole)))
        exact = (levels.long() - ZERO) @ whole.long().t()
        return torch.equal(product.long(), exact) and torch.equal(packed.to_dense().t(), whole)
    except (AttributeError, RuntimeError):
        return False


@functools.cache
def multiplies_bytes() -> bool:
    """Whether this package's kernels are built, and right on this CPU at the ends of the range."""
    if not kernels.kernels():
        return False
    rows, weight = _sample(torch.float32)
    rows, above = torch.where(rows > 0, 1.0, -1.0), weight > 0
    levels = torch.where(above, LEVELS, -LEVELS).to(torch.int8)
    codes = torch.where(above, 15, 0).to(torch.uint8)  # of NF4, 1 and -1
    ones = torch.ones(len(weight), 192 // kernels.BLOCK)
    return all(
        torch.allclose(kernels.multiply(rows, laid_out), rows @ exact.float().t(), atol=0.01)
        for laid_out, exact in (
            (kernels.lay_out_int8(levels, ones[:, 0]), levels),
            (kernels.lay_out_nf4(codes, ones), above * 2 - 1),
        )
    )


def _sample(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(n, 192, generator=generator) for n in (5, 96))
    return rows.to(dtype), weight.to(dtype)
