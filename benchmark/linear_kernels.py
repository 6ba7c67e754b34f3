# SPDX-License-Identifier: Apache-2.0
"""Which kernel multiplies a quantized layer fastest on this CPU: bitsandbytes, or torch's own.

    OMP_NUM_THREADS=1 python benchmark/linear_kernels.py

Prints, for the two shapes of Llama-7B's linear layers and 1 to 576 rows, milliseconds and how many
times as fast as the first line, torch's own layer in the dtype that this class of CPU multiplies
(bfloat16 or float32), with the relative error of the product. Times are of the
process on its core, not of the clock, so that a busy machine spoils them less; with several threads
they add up. What took more than two seconds is not tried with more rows.
"""

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from svd_vlm_ros.cpu import computes_bfloat16, cpu_class, cpu_name
from svd_vlm_ros.models.weights import packed_layers
from svd_vlm_ros.models.weights.packed import pack
from svd_vlm_ros.models.weights.precision import quantize_linears

SHAPES = ((4096, 4096), (4096, 11008))  # inputs, outputs
ROWS = (1, 8, 16, 66, 576)
TOO_SLOW = 2.0  # seconds
DTYPE = torch.bfloat16 if computes_bfloat16() else torch.float32
Product = Callable[[Tensor], Tensor]


def bitsandbytes(weight: Tensor, precision: str) -> nn.Sequential:
    outputs, inputs = weight.shape
    layer = nn.Sequential(nn.Linear(inputs, outputs, bias=False, dtype=DTYPE)).eval()
    layer.requires_grad_(False)
    layer[0].weight.data.copy_(weight)
    quantize_linears(layer, precision, DTYPE)
    return layer.eval()


def laid_out(layer: nn.Sequential) -> Product:
    """What this package runs: the same weights, laid out for this CPU beforehand."""
    pack(layer)  # if this CPU gains nothing the layer stays as it is
    return layer.eval()


def stored(weight: Tensor, dtype: torch.dtype) -> nn.Sequential:
    layer = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    layer[0].weight.data = weight.to(dtype)
    return layer.requires_grad_(False)


def in_its_dtype(layer: nn.Sequential, dtype: torch.dtype) -> Product:
    return lambda rows: layer(rows.to(dtype))


def half(weight: Tensor) -> Product:
    """Weights in float16, rows and sums in float32: FBGEMM."""
    kept = packed_layers.pack_half(weight, None)
    return lambda rows: packed_layers.multiply_half(rows.float(), kept)


def float32_laid_out(weight: Tensor) -> Product:
    kept = packed_layers.lay_out(weight)
    return lambda rows: packed_layers.multiply(rows.float(), kept, None)


def torch_int8_weight_only(weight: Tensor) -> Product:
    scale = weight.abs().amax(1) / 127
    levels = (weight / scale[:, None]).round().to(torch.int8)
    scale = scale.bfloat16()
    return lambda rows: torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), levels, scale)


def torch_int4_weight_only(weight: Tensor, group: int) -> Product:
    grouped = weight.view(len(weight), -1, group)
    low, high = grouped.amin(2), grouped.amax(2)
    scale = (high - low) / 15
    levels = ((grouped - low[..., None]) / scale[..., None]).round().to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.view_as(weight), 1)
    tables = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16()
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    return lambda rows: multiply(rows.bfloat16(), packed, group, tables)


def torch_int8_both(weight: Tensor) -> Product:
    """Weights and rows in int8, a scale for each row of both: what bitsandbytes computes too."""
    scale = weight.abs().amax(1) / 127
    levels = (weight / scale[:, None]).round().to(torch.int8).t().contiguous()

    def product(rows: Tensor) -> Tensor:
        step = rows.abs().amax(1, keepdim=True).float() / 127
        whole = torch._int_mm((rows.float() / step).round().to(torch.int8), levels)
        return whole.float() * step * scale

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
    begun = time.process_time()
    product(rows)
    taken = [time.process_time() - begun]
    if taken[0] > TOO_SLOW:
        return taken[0]
    taken.clear()
    for _ in range(7 if len(rows) < 100 else 3):
        begun = time.process_time()
        product(rows)
        taken.append(time.process_time() - begun)
    return min(taken)


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    print(f"{cpu_name()} ({cpu_class()}), {threads} threads, torch {torch.__version__}")
    for inputs, outputs in SHAPES:
        weight = torch.randn(outputs, inputs) * 0.02
        name = str(DTYPE).removeprefix("torch.")
        products: dict[str, Product] = {
            name: stored(weight, DTYPE),
            "bfloat16": in_its_dtype(stored(weight, torch.bfloat16), torch.bfloat16),
            "bfloat16, laid out": laid_out(stored(weight, torch.bfloat16)),
            "float32, laid out": float32_laid_out(weight),
            "float16 weights, float32 rows": half(weight),
            "bitsandbytes int8": bitsandbytes(weight, "int8"),
            "int8, as this package runs it": laid_out(bitsandbytes(weight, "int8")),
            "bitsandbytes NF4": bitsandbytes(weight, "int4"),
            "NF4, as this package runs it": laid_out(bitsandbytes(weight, "int4")),
            "torch int8, weights only": torch_int8_weight_only(weight),
            "torch int8, both": torch_int8_both(weight),
            "torch dynamic int8": torch_dynamic_int8(weight),
            "torch int4, groups of 32": torch_int4_weight_only(weight, 32),
            "torch int4, groups of 128": torch_int4_weight_only(weight, 128),
        }
        if name == "bfloat16":
            del products["float16 weights, float32 rows"], products["float32, laid out"]
        else:
            del products["bfloat16, laid out"]
        slow: set[str] = set()
        for count in ROWS:
            rows = torch.randn(count, inputs).to(DTYPE)
            exact = rows.float() @ weight.t()
            base = seconds(products[name], rows)
            print(f"{inputs} x {outputs}, {count} rows")
            for each, product in products.items():
                if each in slow:
                    print(f"  {each:30} too slow")
                    continue
                error = float((product(rows).float() - exact).norm() / exact.norm())
                taken = seconds(product, rows)
                if taken > TOO_SLOW:
                    slow.add(each)
                print(f"  {each:30} {taken * 1e3:8.2f} ms  {base / taken:5.2f}x  error {error:.3f}")


if __name__ == "__main__":
    main()
