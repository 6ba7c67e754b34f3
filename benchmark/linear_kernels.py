# SPDX-License-Identifier: Apache-2.0
"""Which kernel multiplies a quantized layer fastest on this CPU: bitsandbytes, or torch's own.

    OMP_NUM_THREADS=1 python benchmark/linear_kernels.py

Prints, for the two shapes of Llama-7B's linear layers and 1 to 576 rows, milliseconds and how many
times as fast as bfloat16, with the relative error of the product. Times are of the process on its
core, not of the clock, so that a busy machine spoils them less; with several threads they add up.
"""

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from svd_vlm_ros.llava.packed import pack
from svd_vlm_ros.llava.precision import quantize_linears

SHAPES = ((4096, 4096), (4096, 11008))  # inputs, outputs
ROWS = (1, 8, 16, 66, 576)
Product = Callable[[Tensor], Tensor]


def bitsandbytes(weight: Tensor, precision: str) -> nn.Sequential:
    outputs, inputs = weight.shape
    layer = nn.Sequential(nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16)).eval()
    layer.requires_grad_(False)
    layer[0].weight.data.copy_(weight)
    quantize_linears(layer, precision, torch.bfloat16)
    return layer.eval()


def laid_out(layer: nn.Sequential) -> Product:
    """What this package runs: the same weights, laid out for this CPU beforehand."""
    if not pack(layer):
        print(
            "this CPU or this torch multiplies by no laid out weights: the next line is as before"
        )
    return layer.eval()


def bfloat16(weight: Tensor) -> nn.Sequential:
    layer = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    layer[0].weight.data = weight.bfloat16()
    return layer.requires_grad_(False)


def torch_int8_weight_only(weight: Tensor) -> Product:
    scale = weight.abs().amax(1) / 127
    levels = (weight / scale[:, None]).round().to(torch.int8)
    scale = scale.bfloat16()
    return lambda rows: torch.ops.aten._weight_int8pack_mm(rows, levels, scale)


def torch_int4_weight_only(weight: Tensor, group: int) -> Product:
    grouped = weight.view(len(weight), -1, group)
    low, high = grouped.amin(2), grouped.amax(2)
    scale = (high - low) / 15
    levels = ((grouped - low[..., None]) / scale[..., None]).round().to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.view_as(weight), 1)
    tables = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16()
    return lambda rows: torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, group, tables)


def torch_int8_both(weight: Tensor) -> Product:
    """Weights and rows in int8, a scale for each row of both: what bitsandbytes computes too."""
    scale = weight.abs().amax(1) / 127
    levels = (weight / scale[:, None]).round().to(torch.int8).t().contiguous()

    def product(rows: Tensor) -> Tensor:
        step = rows.abs().amax(1, keepdim=True).float() / 127
        whole = torch._int_mm((rows.float() / step).round().to(torch.int8), levels)
        return (whole.float() * step * scale).bfloat16()

    return product


def torch_dynamic_int8(weight: Tensor) -> Product:
    """The deprecated `torch.ao` way: one scale for all rows of an input."""
    layer = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False)).eval()
    layer[0].weight.data.copy_(weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, dtype=torch.qint8)
    return lambda rows: quantized(rows.float())


def seconds(product: Product, rows: Tensor) -> float:
    product(rows)
    taken = []
    for _ in range(7 if len(rows) < 100 else 3):
        begun = time.process_time()
        product(rows)
        taken.append(time.process_time() - begun)
    return min(taken)


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    for inputs, outputs in SHAPES:
        weight = torch.randn(outputs, inputs) * 0.02
        products: dict[str, Product] = {
            "bf16": bfloat16(weight),
            "bf16, laid out": laid_out(bfloat16(weight)),
            "bitsandbytes int8": bitsandbytes(weight, "int8"),
            "bitsandbytes int8, laid out": laid_out(bitsandbytes(weight, "int8")),
            "bitsandbytes NF4": bitsandbytes(weight, "int4"),
            "torch int8, weights only": torch_int8_weight_only(weight),
            "torch int8, both": torch_int8_both(weight),
            "torch dynamic int8": torch_dynamic_int8(weight),
            "torch int4, groups of 32": torch_int4_weight_only(weight, 32),
            "torch int4, groups of 128": torch_int4_weight_only(weight, 128),
        }
        for count in ROWS:
            rows = torch.randn(count, inputs).bfloat16()
            exact = rows.float() @ weight.t()
            base = seconds(products["bf16"], rows)
            print(f"{inputs} x {outputs}, {count} rows")
            for name, product in products.items():
                error = float((product(rows).float() - exact).norm() / exact.norm())
                taken = seconds(product, rows)
                print(f"  {name:26} {taken * 1e3:8.2f} ms  {base / taken:5.2f}x  error {error:.3f}")


if __name__ == "__main__":
    main()
