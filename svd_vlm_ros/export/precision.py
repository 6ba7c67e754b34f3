# SPDX-License-Identifier: Apache-2.0
"""The precisions of an export: dtypes and opset.

| precision | decoder's linear layers | other weights | activations, cache | opset |
| fp32 | float32 | float32 | float32 | 20 |
| fp16 | float16 | float16 | float16 | 20 |
| int8 | 8 bits in blocks | float16 | float32 | 21 |
| int4 | 4 bits in blocks | float16 | float32 | 21 |
"""

from __future__ import annotations

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.quantize import BITS, BLOCK

PRECISIONS = ("fp32", "fp16", *BITS)


def check_precision(precision: str) -> None:
    """Raise `UserError` if a model can't be exported so."""
    if precision not in PRECISIONS:
        raise UserError(
            f"There is no export in '{precision}': take one of {', '.join(PRECISIONS)}."
        )


def opset(precision: str) -> int:
    """Blocks of weights came with opset 21; all else is kept at 20, for older TensorRT."""
    return 21 if precision in BITS else 20


def compute_dtype(precision: str) -> np.dtype:
    """Of activations and cache."""
    return np.dtype(np.float16 if precision == "fp16" else np.float32)


def store_dtype(precision: str) -> np.dtype:
    """Of the weights that are not quantized."""
    return np.dtype(np.float32 if precision == "fp32" else np.float16)


def bytes_per_weight(precision: str) -> float:
    """Of the linear layers of the decoder, scales included."""
    if precision in BITS:
        return BITS[precision] / 8 + compute_dtype(precision).itemsize / BLOCK
    return float(store_dtype(precision).itemsize)
