# SPDX-License-Identifier: Apache-2.0
"""Linear layers whose weights are laid out for this CPU, and the way back to what they were.

`packed.py` says which layer takes which of them, on which CPU, and why.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from svd_vlm_ros.models.weights import kernels

LEVELS = 127  # of an int8, to each side of zero
ZERO = 128  # where zero lies in an unsigned byte
ROWS = 64  # a hint at how many rows are multiplied; its layout serves a single one best, too


class Packed(nn.Linear):
    """A linear layer whose weights lie as a kernel reads them; `input` is [..., inputs].

    Attributes:
        quantized: whether its weights have less than 16 bits.
        held_bytes: of weights that are no parameters and no buffers.
    """

    quantized: ClassVar[bool] = False
    held_bytes: int = 0

    def __init__(self, layer: nn.Linear) -> None:
        """Take over a layer's sizes and bias; the layer may be let go afterwards."""
        sizes = layer.in_features, layer.out_features, layer.bias is not None
        super().__init__(*sizes, device="meta")
        del self.weight
        self.bias = layer.bias

    def unpack(self) -> nn.Linear:
        """The layer as it was before."""
        raise NotImplementedError

    def _linear(self, weight: Tensor) -> nn.Linear:
        """torch's own layer with these weights."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = self.bias
        return layer.eval()


class PackedLinear(Packed):
    """A layer in bfloat16 or float32, in oneDNN's layout."""

    weight: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """Lay out a layer's weights."""
        super().__init__(layer)
        self.register_buffer("weight", lay_out(layer.weight.detach()), persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[..., outputs] in the dtype of the weights."""
        return multiply(input, self.weight, self.bias)

    def unpack(self) -> nn.Linear:
        """The layer as it was before, bit by bit."""
        return self._linear(self.weight.to_dense())


class PackedHalf(Packed):
    """A layer in float32 whose weights are kept in float16 (FBGEMM): half the bytes to read.

    Activations and sums stay float32. Weights that came from a checkpoint in 16 bits lose nothing,
    unless they are below 6e-8.
    """

    def __init__(self, layer: nn.Linear) -> None:
        """Lay out a layer's weights."""
        super().__init__(layer)
        self._packed = pack_half(layer.weight.detach(), layer.bias)
        self.held_bytes = 2 * layer.weight.numel()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[..., outputs], float32."""
        return multiply_half(input, self._packed)

    def unpack(self) -> nn.Linear:
        """A layer in float32 with the weights that this one multiplies by."""
        return self._linear(torch.ops.quantized.linear_unpack_fp16(self._packed)[0])


class Quantized(Packed):
    """A layer that multiplies rows [n, inputs], float32."""

    quantized = True

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[..., outputs] in the dtype of `input`."""
        product = self._multiply(input.reshape(-1, input.shape[-1]).float())
        return product.to(input.dtype).reshape(*input.shape[:-1], -1)

    def _multiply(self, rows: Tensor) -> Tensor:
        """The product [n, outputs], float32, with the bias."""
        raise NotImplementedError


class _Int8(Quantized):
    """A layer of bitsandbytes in int8, without its path for outliers."""

    def __init__(self, layer: nn.Linear) -> None:
        from bitsandbytes.nn import Linear8bitLt

        assert isinstance(layer, Linear8bitLt)
        super().__init__(layer)
        if layer.weight.CB is not None:
            layer.init_8bit_state()
        self.threshold = layer.state.threshold
        self._lay_out(layer.state.CB, layer.state.SCB.float() / LEVELS)

    def _lay_out(self, levels: Tensor, scales: Tensor) -> None:
        raise NotImplementedError

    def _levels(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def unpack(self) -> nn.Linear:
        """bitsandbytes' layer with the same weights and scales."""
        from bitsandbytes.nn import Int8Params, Linear8bitLt

        sizes = self.in_features, self.out_features, self.bias is not None
        layer = Linear8bitLt(
            *sizes, has_fp16_weights=False, threshold=self.threshold, device="meta"
        )
        levels, scales = self._levels()
        layer.weight = Int8Params(
            levels, requires_grad=False, has_fp16_weights=False, CB=levels, SCB=scales * LEVELS
        )
        layer.bias = self.bias
        return layer.eval()


class PackedInt8(_Int8):
    """int8 by oneDNN, which needs VNNI instructions.

    Each row of the input is rounded to 255 levels of its own, as in LLM.int8() (arXiv 2208.07339)
    without outliers.
    """

    weight: Tensor
    scales: Tensor

    def _lay_out(self, levels: Tensor, scales: Tensor) -> None:
        packed = torch.ops.onednn.qlinear_prepack(levels, None)
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def _levels(self) -> tuple[Tensor, Tensor]:
        return self.weight.to_dense().t().contiguous(), self.scales

    def _multiply(self, rows: Tensor) -> Tensor:
        step = rows.abs().amax(dim=1, keepdim=True).div_(LEVELS).clamp_min_(1e-30)
        levels = (rows / step).round_().add_(ZERO).to(torch.uint8)
        product = multiply_int8(levels, self.weight, self.scales).mul_(step)
        return product if self.bias is None else product.add_(self.bias)


class BlockInt8(_Int8):
    """int8 by this package's kernels: each row of the input is rounded in blocks of 64."""

    weight: Tensor
    scales: Tensor

    def _lay_out(self, levels: Tensor, scales: Tensor) -> None:
        laid_out = kernels.lay_out_int8(levels, scales)
        self.register_buffer("weight", laid_out.levels, persistent=False)
        self.register_buffer("scales", laid_out.scales, persistent=False)

    def _weights(self) -> kernels.Weights:
        return kernels.Weights(
            "int8", self.weight, self.scales, self.in_features, self.out_features
        )

    def _levels(self) -> tuple[Tensor, Tensor]:
        return kernels.int8_levels(self._weights()), self.scales[: self.out_features]

    def _multiply(self, rows: Tensor) -> Tensor:
        return kernels.multiply(rows, self._weights(), _float(self.bias))


class BlockNf4(Quantized):
    """NF4 of bitsandbytes by this package's kernels.

    The codes stay, the scales of their blocks of 64 are kept in float16, and the 16 numbers that
    the codes stand for are rounded to the levels of a byte.
    """

    weight: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """Lay out the weights of a `Linear4bit`."""
        from bitsandbytes.functional import dequantize_blockwise

        super().__init__(layer)
        weight: Any = layer.weight
        state = weight.quant_state
        absmax = state.absmax
        if state.nested:
            absmax = dequantize_blockwise(absmax, state.state2) + state.offset
        pairs = weight.detach().view(torch.uint8).view(self.out_features, -1)
        codes = torch.stack((pairs >> 4, pairs & 15), dim=2).view(self.out_features, -1)
        laid_out = kernels.lay_out_nf4(codes, absmax.view(self.out_features, -1))
        self.register_buffer("weight", laid_out.levels, persistent=False)
        self.register_buffer("scales", laid_out.scales, persistent=False)
        self._state = state.code, state.dtype

    def _weights(self) -> kernels.Weights:
        return kernels.Weights("nf4", self.weight, self.scales, self.in_features, self.out_features)

    def _multiply(self, rows: Tensor) -> Tensor:
        return kernels.multiply(rows, self._weights(), _float(self.bias))

    def unpack(self) -> nn.Linear:
        """bitsandbytes' layer with the same codes; its scales are no longer quantized."""
        from bitsandbytes.functional import QuantState
        from bitsandbytes.nn import Linear4bit, Params4bit

        code, dtype = self._state
        codes, scales = kernels.nf4_codes(self._weights())
        shape = torch.Size((self.out_features, self.in_features))
        state = QuantState(
            absmax=scales.float().reshape(-1),
            shape=shape,
            code=code,
            blocksize=kernels.BLOCK,
            quant_type="nf4",
            dtype=dtype,
        )
        pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).reshape(-1, 1)
        layer = Linear4bit(*shape[::-1], self.bias is not None, compute_dtype=dtype, device="meta")
        layer.weight = Params4bit(
            pairs,
            requires_grad=False,
            quant_state=state,
            blocksize=kernels.BLOCK,
            quant_type="nf4",
            bnb_quantized=True,
            module=layer,
        )
        layer.quant_state = state
        layer.bias = self.bias
        return layer.eval()


def lay_out(weight: Tensor) -> Tensor:
    """A matrix in oneDNN's layout for products with few rows."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return packed


def multiply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., outputs] by weights of `lay_out`, in their dtype."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def pack_half(weight: Tensor, bias: Tensor | None) -> Any:
    """A matrix, float32, in FBGEMM's layout, rounded to float16."""
    return torch.ops.quantized.linear_prepack_fp16(weight, bias)


def multiply_half(rows: Tensor, packed: Any) -> Tensor:
    """[..., outputs], float32, by weights of `pack_half` with their bias."""
    product: Tensor = torch.ops.quantized.linear_dynamic_fp16(rows, packed)
    return product


def multiply_int8(levels: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """[n, outputs] float32 of bytes [n, inputs] around `ZERO`, and a scale for each output."""
    zeros = torch.zeros(1, dtype=torch.int32)
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        *(levels, 1.0, ZERO, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    )
    return product


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float().contiguous()
