# SPDX-License-Identifier: Apache-2.0
"""bitsandbytes' int8 layers on a CPU, with a leaner product around the same integers.

Weights and scales stay bitsandbytes'. Its product, row by row in int8, is the same as well; but it
goes through float16 and scales in several passes, in each of hundreds of layers. Results differ by
the rounding of the output only; `docs/performance.md` has the times.

Import this only after `precision.import_bitsandbytes()`.
"""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear8bitLt
from torch import Tensor, nn

LEVELS = 127  # of an int8, to each side of zero


class LeanInt8(Linear8bitLt):
    """An int8 layer for a CPU with AVX512 and without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply [..., inputs] by the weights; [..., outputs] in the dtype of `x`.

        Each row of `x` is rounded to 255 levels of its own, as in LLM.int8() (arXiv 2208.07339)
        without outliers.
        """
        if self.weight.CB is not None:
            self.init_8bit_state()
        rows = x.reshape(-1, x.shape[-1]).float()
        step = rows.abs().amax(dim=1, keepdim=True).div_(LEVELS).clamp_min_(1e-30)
        levels = (rows / step).round_().to(torch.int8)
        product = torch._int_mm(levels, self.state.CB.t()).float()  # [n, outputs]
        product.mul_(self.state.SCB / LEVELS).mul_(step)
        if self.bias is not None:
            product.add_(self.bias)
        return product.to(x.dtype).reshape(*x.shape[:-1], -1)


def make_lean(model: nn.Module) -> None:
    """Replace bitsandbytes' int8 layers below `model`, in place; they share weights and scales.

    Nothing changes on a CPU without AVX512, where the integer product is slow and bitsandbytes
    multiplies otherwise.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return
    for name, layer in list(model.named_modules()):
        if type(layer) is not Linear8bitLt:
            continue
        lean = LeanInt8(
            *(layer.in_features, layer.out_features, layer.bias is not None),
            has_fp16_weights=False,
            threshold=layer.state.threshold,
            device="meta",
        )
        lean.weight, lean.bias, lean.state = layer.weight, layer.bias, layer.state
        model.set_submodule(name, lean)
