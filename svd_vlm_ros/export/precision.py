# SPDX-License-Identifier: Apache-2.0
"""The precisions of an export: which numbers the graphs are made of.

| precision | decoder's linear layers | other weights | activations, cache | opset |
|-----------|-------------------------|---------------|--------------------|-------|
| fp32      | float32                 | float32       | float32            | 20    |
| fp16      | float16                 | float16       | float16            | 20    |
| int8      | 8 bits in blocks        | float16       | float32 *          | 21    |
| int4      | 4 bits in blocks        | float16       | float32 *          | 21    |

`*` or float16, for GPUs: a CPU computes float16 more slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.quantize import BITS, BLOCK

PRECISIONS = ("fp32", "fp16", *BITS)
ACTIVATIONS = ("auto", "float32", "float16")


@dataclass(frozen=True)
class Numbers:
    """What the numbers of an export are.

    Attributes:
        precision: one of `PRECISIONS`.
        compute: dtype of activations and cache.
        store: dtype of the weights that are not quantized.
        bits: of the decoder's linear layers; None: they are not quantized.
    """

    precision: str
    compute: np.dtype
    store: np.dtype
    bits: int | None

    @classmethod
    def of(cls, precision: str, activations: str = "auto") -> Numbers:
        """By the user's words. Raises `UserError` if a model can't be exported so."""
        if precision not in PRECISIONS:
            raise UserError(
                f"There is no export in '{precision}': take one of {', '.join(PRECISIONS)}."
            )
        if activations not in ACTIVATIONS:
            raise UserError(
                f"There are no activations in '{activations}': take one of "
                f"{', '.join(ACTIVATIONS)}."
            )
        usual = "float16" if precision == "fp16" else "float32"
        if precision not in BITS and activations not in ("auto", usual):
            raise UserError(f"In {precision} the activations are {usual}: leave them at auto.")
        compute = usual if activations == "auto" else activations
        store = "float32" if precision == "fp32" else "float16"
        return cls(precision, np.dtype(compute), np.dtype(store), BITS.get(precision))

    @property
    def opset(self) -> int:
        """Blocks of weights came with opset 21; all else is kept at 20, for older TensorRT."""
        return 20 if self.bits is None else 21

    def size(self, linear: int, rest: int) -> int:
        """Bytes of so many weights of the decoder's linear layers and others."""
        if self.bits is None:
            return (linear + rest) * self.store.itemsize
        each = self.bits / 8 + self.compute.itemsize / BLOCK
        return int(linear * each) + rest * self.store.itemsize
