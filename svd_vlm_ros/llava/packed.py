# SPDX-License-Identifier: Apache-2.0
"""Weights laid out for this CPU, so that its kernels read them as they lie.

torch multiplies by a matrix that is stored row by row, as every file has it, and oneDNN lays it out
anew in each call, block by block. For hundreds of rows that is lost in the work; for the one row of
a token that is written it takes longer than the product. Here each layer is laid out once, when it
is loaded. In bfloat16 the numbers that come out are the same, to the last bit; a token of
LLaVA-1.5-7B takes half the time or less (`docs/performance.md`). It takes no memory: each layer's
own weights are let go before the next is laid out.

* bfloat16: `torch.compile` freezes models for CPUs through the same two operators.
* int8: bitsandbytes' weights, scales and levels. Its product goes through float16 and several
  passes, and lays out as well; results differ by the rounding of the output only.

float32 and int4 stay as they are, and so does all on a CPU where an operator is missing or is found
not to be exact. Import this only after `precision.import_bitsandbytes()` where layers are int8.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LEVELS = 127  # of an int8, to each side of zero
ZERO = 128  # where zero lies in an unsigned byte
X86 = ("x86_64", "AMD64")
ROWS = 64  # a hint at how many rows are multiplied; its layout serves a single one best, too


class Packed(nn.Linear):
    """A linear layer whose `weight` is a buffer in oneDNN's own layout."""

    weight: Tensor

    def __init__(self, layer: nn.Linear, weight: Tensor) -> None:
        """Take over a layer's sizes and bias.

        Args:
            layer: may be let go afterwards.
            weight: its weights, laid out.
        """
        sizes = layer.in_features, layer.out_features, layer.bias is not None
        super().__init__(*sizes, device="meta")
        del self.weight
        self.register_buffer("weight", weight, persistent=False)
        self.bias = layer.bias

    def unpack(self) -> nn.Linear:
        """The layer as it was before."""
        raise NotImplementedError


class PackedLinear(Packed):
    """A layer in bfloat16."""

    def __init__(self, layer: nn.Linear) -> None:
        """Lay out a layer's weights."""
        super().__init__(layer, _lay_out(layer.weight.detach()))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Multiply [..., inputs], bfloat16, by the weights; [..., outputs]."""
        return _multiply(input, self.weight, self.bias)

    def unpack(self) -> nn.Linear:
        """The layer as it was before, bit by bit."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        layer.bias = self.bias
        return layer.eval()


class PackedInt8(Packed):
    """A layer of bitsandbytes in int8, without its path for outliers."""

    scales: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """Lay out the weights of a `Linear8bitLt`."""
        from bitsandbytes.nn import Linear8bitLt

        assert isinstance(layer, Linear8bitLt)
        if layer.weight.CB is not None:
            layer.init_8bit_state()
        super().__init__(layer, torch.ops.onednn.qlinear_prepack(layer.state.CB, None))
        self.register_buffer("scales", layer.state.SCB.float() / LEVELS, persistent=False)
        self.threshold = layer.state.threshold

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Multiply [..., inputs] by the weights; [..., outputs] in the dtype of `input`.

        Each row of `input` is rounded to 255 levels of its own, as in LLM.int8() (arXiv 2208.07339)
        without outliers.
        """
        rows = input.reshape(-1, input.shape[-1]).float()
        step = rows.abs().amax(dim=1, keepdim=True).div_(LEVELS).clamp_min_(1e-30)
        levels = (rows / step).round_().add_(ZERO).to(torch.uint8)
        product = _multiply_int8(levels, self.weight, self.scales).mul_(step)
        if self.bias is not None:
            product.add_(self.bias)
        return product.to(input.dtype).reshape(*input.shape[:-1], -1)

    def unpack(self) -> nn.Linear:
        """bitsandbytes' layer with the same weights and scales."""
        from bitsandbytes.nn import Int8Params, Linear8bitLt

        sizes = self.in_features, self.out_features, self.bias is not None
        layer = Linear8bitLt(
            *sizes, has_fp16_weights=False, threshold=self.threshold, device="meta"
        )
        levels = self.weight.to_dense().t().contiguous()
        layer.weight = Int8Params(
            levels,
            requires_grad=False,
            has_fp16_weights=False,
            CB=levels,
            SCB=self.scales * LEVELS,
        )
        layer.bias = self.bias
        return layer.eval()


def pack(model: nn.Module) -> int:
    """Lay out the linear layers below a model on a CPU, in place.

    Returns:
        How many were laid out; 0 on any other device, and where this CPU gains nothing.
    """
    return _replace(model, _packed_kind)


@contextmanager
def unpacked(model: nn.Module) -> Iterator[None]:
    """Give a model the layers back that it was loaded with, until the block ends.

    Both ways take a few seconds for 7 billion weights.
    """
    changed = _replace(model, lambda layer: layer.unpack if isinstance(layer, Packed) else None)
    try:
        yield
    finally:
        if changed:
            pack(model)


def _replace(
    model: nn.Module, wanted: Callable[[nn.Module], Callable[[], nn.Module] | None]
) -> int:
    """Replace layers one by one, so that only one of them is in memory twice."""
    names = [name for name, layer in model.named_modules() if wanted(layer)]
    for name in names:
        make = wanted(model.get_submodule(name))
        assert make is not None
        model.set_submodule(name, make())
        del make  # it holds the layer that was replaced
    return len(names)


def _packed_kind(layer: nn.Module) -> Callable[[], Packed] | None:
    """What would lay out a layer; None: nothing."""
    if not isinstance(layer, nn.Linear) or layer.weight.device.type != "cpu":
        return None
    if type(layer) is nn.Linear:
        packs = layer.weight.dtype == torch.bfloat16 and packs_bfloat16()
        return functools.partial(PackedLinear, layer) if packs else None
    # By name: without int8 layers bitsandbytes need not be there.
    if type(layer).__name__ == "Linear8bitLt" and packs_int8():
        return functools.partial(PackedInt8, layer)
    return None


@functools.cache
def packs_bfloat16() -> bool:
    """Whether this torch and this CPU multiply by laid out bfloat16, exactly as by others.

    Not asked of an ARM CPU: there oneDNN hands on to another library, which nobody has looked at.
    """
    if platform.machine() not in X86:
        return False
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        rows, weight = _sample(torch.bfloat16)
        packed = _lay_out(weight)
        same = torch.equal(_multiply(rows, packed, None), nn.functional.linear(rows, weight))
        return same and torch.equal(packed.to_dense(), weight)
    except (AttributeError, RuntimeError):
        return False


@functools.cache
def packs_int8() -> bool:
    """Whether this torch and this CPU multiply bytes exactly.

    Without VNNI instructions sums of two products overflow; and without AVX512 nobody has looked
    whether there is a gain.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        rows, weight = _sample(torch.float32)
        levels = torch.where(rows > 0, 255, 1).to(torch.uint8)  # the ends of the range
        whole = torch.where(weight > 0, LEVELS, -LEVELS).to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(whole, None)
        product = _multiply_int8(levels, packed, torch.ones(len(whole)))
        exact = (levels.long() - ZERO) @ whole.long().t()
        return torch.equal(product.long(), exact) and torch.equal(packed.to_dense().t(), whole)
    except (AttributeError, RuntimeError):
        return False


def _sample(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(n, 192, generator=generator) for n in (5, 96))
    return rows.to(dtype), weight.to(dtype)


def _lay_out(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return packed


def _multiply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def _multiply_int8(levels: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """[n, outputs] float32 of bytes [n, inputs] around `ZERO`, and a scale for each output."""
    zeros = torch.zeros(1, dtype=torch.int32)
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        *(levels, 1.0, ZERO, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    )
    return product
