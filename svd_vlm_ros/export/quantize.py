# SPDX-License-Identifier: Apache-2.0
"""Weights of 4 or 8 bits in blocks, as ONNX's DequantizeLinear reads them.

Rounded to nearest, symmetric: a weight is an integer times the scale of its block, and the zero
point is 0, which is what TensorRT takes. Of 4 bits each block tries a few scales and keeps the one
with the least square error: clipping its largest weight a little often rounds the others better.
"""

from __future__ import annotations

import numpy as np

from svd_vlm_ros.errors import UserError

BLOCK = 32  # weights of one output that share a scale
BITS = {"int8": 8, "int4": 4}
# The largest weight of a block, in steps of its scale: 7 is the largest integer, -8 the smallest.
_TRIED = {8: (127.0,), 4: (7.0, 7.5, 8.2)}
_ROWS = 2  # blocks at a time: what is worked on stays in the cache


def quantize(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a matrix in blocks along its first axis.

    Args:
        weight: float32 [in, out].
        bits: 4 or 8.

    Returns:
        int8 [in, out] of numbers that fit into the bits, and float32 scales [in / BLOCK, out].

    Raises:
        UserError: `in` is no multiple of `BLOCK`.
    """
    inputs, outputs = weight.shape
    if inputs % BLOCK:
        raise UserError(
            f"int{bits} needs layers with multiples of {BLOCK} inputs, this model has one of "
            f"{inputs}: take fp16."
        )
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    numbers = np.empty((inputs // BLOCK, BLOCK, outputs), np.int8)
    scales = np.empty((inputs // BLOCK, outputs), np.float32)
    blocks = weight.reshape(inputs // BLOCK, BLOCK, outputs)
    for begin in range(0, len(blocks), _ROWS):
        part = slice(begin, begin + _ROWS)
        numbers[part], scales[part] = _best(blocks[part].astype(np.float32), bits, low, high)
    return numbers.reshape(inputs, outputs), scales


def pack(numbers: np.ndarray) -> np.ndarray:
    """Two 4-bit numbers a byte, the first one in the low half: uint8 [n / 2]."""
    flat = (numbers.reshape(-1) & 0xF).astype(np.uint8)
    return flat[0::2] | (flat[1::2] << 4)


def _best(blocks: np.ndarray, bits: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and scales of blocks [b, BLOCK, out], by the least square error of each."""
    largest = np.abs(blocks).max(axis=1)
    # A block of zeros: any scale serves, but TensorRT takes positive ones only.
    largest[largest == 0] = 1.0
    first, *others = _TRIED[bits]
    best_scales = largest / np.float32(first)
    best_numbers = np.clip(np.rint(blocks / best_scales[:, None]), low, high)
    if not others:
        return best_numbers.astype(np.int8), best_scales
    least = np.square(best_numbers * best_scales[:, None] - blocks).sum(axis=1)
    for steps in others:
        scales = largest / np.float32(steps)
        numbers = np.clip(np.rint(blocks / scales[:, None]), low, high)
        error = np.square(numbers * scales[:, None] - blocks).sum(axis=1)
        better = error < least
        best_numbers = np.where(better[:, None], numbers, best_numbers)
        best_scales = np.where(better, scales, best_scales)
        least = np.where(better, error, least)
    return best_numbers.astype(np.int8), best_scales
