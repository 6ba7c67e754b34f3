# SPDX-License-Identifier: Apache-2.0
"""The package's own products by weights of 8 and 4 bits (`src/low_bit_kernel.cpp`), over ctypes.

For CPUs without bfloat16, where neither torch nor bitsandbytes has fast ones: `docs/performance.md`
has the figures. The layout of the weights is said in the source.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from svd_vlm_ros.cpu import AVX2, AVX512, NEON_DOT, instructions

LIBRARY = Path(__file__).with_name("libsvd_vlm_kernels.so")
PANEL, BLOCK, STEP = 16, 64, 4  # outputs, inputs with a common scale, inputs of one instruction
INT8_ZERO = 128
Kind = Literal["int8", "nf4"]

# What a kernel was compiled for, the fastest first, and the features that it needs.
KERNELS = {
    "avx512vnni": AVX2 | AVX512 | {"avx512_vnni"},
    "avxvnni": AVX2 | {"avx_vnni"},
    "avx2": AVX2,
    "neon": NEON_DOT,
}


@dataclass(frozen=True)
class Weights:
    """The weights of a layer as the kernels read them.

    Attributes:
        kind: "int8" or "nf4".
        levels: uint8, panel by panel.
        scales: int8: float32 [outputs, padded to panels]; nf4: float16 [panels, blocks, 16].
        inputs, outputs: of the layer.
    """

    kind: Kind
    levels: Tensor
    scales: Tensor
    inputs: int
    outputs: int


def kernels() -> tuple[str, ...]:
    """The names of the kernels that this build has and this CPU can run, the fastest first."""
    has = instructions()
    return tuple(
        name for name, needs in KERNELS.items() if has >= needs and _function("int8", name)
    )


def lay_out_int8(levels: Tensor, scales: Tensor) -> Weights:
    """Weights from levels [outputs, inputs], int8, and a scale for each output, float32."""
    outputs, inputs = levels.shape
    # In int16: -128 + 128 and 127 + 128 are both bytes, but not on the way.
    shifted = (levels.to(torch.int16) + INT8_ZERO).to(torch.uint8)
    padded = pad(shifted, (0, -inputs % BLOCK, 0, -outputs % PANEL), value=INT8_ZERO)
    panels = padded.view(-1, PANEL, padded.shape[1] // STEP, STEP)
    scales = pad(scales.float(), (0, -outputs % PANEL))
    return Weights("int8", _aligned(panels.permute(0, 2, 1, 3)), scales, inputs, outputs)


def lay_out_nf4(codes: Tensor, scales: Tensor) -> Weights:
    """Weights from NF4 codes [outputs, inputs], uint8 0 to 15, and scales [outputs, blocks].

    The number of inputs is a multiple of 64.
    """
    outputs, inputs = codes.shape
    rows = -outputs % PANEL
    codes, scales = pad(codes, (0, 0, 0, rows), value=7), pad(scales, (0, 0, 0, rows))  # 7 is 0.0
    halves = codes.view(-1, 2, PANEL // 2, inputs // STEP, STEP).permute(1, 0, 3, 2, 4)
    grouped = scales.half().view(-1, PANEL, inputs // BLOCK).transpose(1, 2).contiguous()
    return Weights("nf4", _aligned(halves[0] | halves[1] << 4), grouped, inputs, outputs)


def int8_levels(weights: Weights) -> Tensor:
    """What `lay_out_int8` was given: levels [outputs, inputs], int8."""
    steps = -(-weights.inputs // BLOCK) * BLOCK // STEP
    panels = weights.levels.view(-1, steps, PANEL, STEP).permute(0, 2, 1, 3)
    levels = panels.reshape(-1, steps * STEP)[: weights.outputs, : weights.inputs]
    return (levels.to(torch.int16) - INT8_ZERO).to(torch.int8)


def nf4_codes(weights: Weights) -> tuple[Tensor, Tensor]:
    """What `lay_out_nf4` was given: codes [outputs, inputs], and scales [outputs, blocks], half."""
    bytes_ = weights.levels.view(-1, weights.inputs // STEP, PANEL // 2, STEP)
    halves = torch.stack((bytes_ & 15, bytes_ >> 4), dim=1)  # [panels, 2, steps, 8, 4]
    codes = halves.permute(0, 1, 3, 2, 4).reshape(-1, weights.inputs)[: weights.outputs]
    scales = weights.scales.transpose(1, 2).reshape(-1, weights.inputs // BLOCK)
    return codes, scales[: weights.outputs]


def multiply(
    rows: Tensor, weights: Weights, bias: Tensor | None = None, *, kernel: str | None = None
) -> Tensor:
    """The product of rows [n, inputs] and weights: float32 [n, outputs].

    Args:
        rows: any float; rounded to int8 in blocks of 64, with a scale of their own each. A number
            that is not finite makes its row NaN.
        weights: on the CPU.
        bias: float32 [outputs].
        kernel: one of `kernels()`; None: the fastest.
    """
    if rows.shape[1] != weights.inputs:
        raise ValueError(f"the layer has {weights.inputs} inputs, the rows {rows.shape[1]}")
    rows = rows.to(torch.float32).contiguous()
    product = rows.new_empty(len(rows), weights.outputs)
    padded = -(-weights.inputs // BLOCK) * BLOCK
    # For each row its levels, and 4 bytes of scale and sum for each block.
    scratch = torch.empty(len(rows) * padded * 9 // 8, dtype=torch.uint8)
    function = _function(weights.kind, kernel or _fastest())
    assert function is not None, kernel
    function(
        *(rows.data_ptr(), len(rows), weights.inputs),
        *(weights.levels.data_ptr(), weights.scales.data_ptr()),
        *(None if bias is None else bias.data_ptr(), weights.outputs),
        *(scratch.data_ptr(), product.data_ptr(), torch.get_num_threads()),
    )
    return product


@functools.cache
def _fastest() -> str:
    return kernels()[0]


@functools.cache
def _function(kind: Kind, kernel: str) -> Any:
    """A C function; None where this build has none of that name."""
    library = _library()
    function = None if library is None else getattr(library, f"svd_vlm_{kind}_{kernel}", None)
    if function is not None:
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        function.restype = None
        function.argtypes = [
            *(pointer, size, size, pointer, pointer, pointer, size, pointer, pointer),
            ctypes.c_int,
        ]
    return function


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernels; None where the package was not built. torch has brought OpenMP."""
    try:
        return ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None


def _aligned(levels: Tensor) -> Tensor:
    """As bytes in a row; torch aligns what it allocates to 64 bytes."""
    levels = levels.contiguous().view(-1)
    assert levels.data_ptr() % 32 == 0
    return levels
