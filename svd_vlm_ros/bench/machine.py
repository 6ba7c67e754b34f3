# SPDX-License-Identifier: Apache-2.0
"""The limits of this machine, measured: how fast memory is read and copied, how fast it multiplies.

A roofline needs the limits of the very machine, cores and clocks that the rows run on, so they are
measured in the same run, with as many threads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from svd_vlm_ros.bench.samples import seconds_of
from svd_vlm_ros.cpu import computes_bfloat16, cpu_class, cpu_name
from svd_vlm_ros.models.weights import kernels
from svd_vlm_ros.models.weights.packed import multiplies_bytes, pack, packs_bfloat16

COPY_BYTES = 256 << 20  # far above what a CPU's caches hold
MATRIX = (640, 4096, 4096)  # rows, inputs, outputs: the reading of 576 tokens in a 7B model


@dataclass(frozen=True)
class Machine:
    """What was measured of a machine.

    Attributes:
        name: of the GPU, or of the CPU.
        threads: of torch on the CPU.
        copy_bandwidth: bytes a second of a large copy, read and written ones counted.
        read_bandwidth: bytes a second of a matrix-vector product, weights counted; on a CPU of the
            faster of two, in float32 and by laid out weights, bfloat16 or int8.
        matrix_rate: operations a second of a large matrix product in `dtype`; a
            multiply-accumulate counts as two.
        dtype: of the product.
        torch: version.
    """

    name: str
    threads: int
    copy_bandwidth: float
    read_bandwidth: float
    matrix_rate: float
    dtype: str
    torch: str

    @property
    def bandwidth(self) -> float:
        """The faster of copying and reading: weights are only read."""
        return max(self.copy_bandwidth, self.read_bandwidth)


@torch.inference_mode()
def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure the limits of a device. Takes about two seconds and 0.5 GB."""
    copied, read = _memory_seconds(device)
    rows, inputs, outputs = MATRIX
    left = torch.randn(rows, inputs, device=device).to(dtype)
    right = torch.randn(outputs, inputs, device=device).to(dtype)
    multiplied = seconds_of(lambda: torch.nn.functional.linear(left, right), device, 0.5)
    return Machine(
        name=device_name(device),
        threads=torch.get_num_threads(),
        copy_bandwidth=2 * COPY_BYTES / copied,
        read_bandwidth=COPY_BYTES / read,
        matrix_rate=2 * rows * inputs * outputs / multiplied,
        dtype=str(dtype).removeprefix("torch."),
        torch=torch.__version__,
    )


def _memory_seconds(device: torch.device) -> tuple[float, float]:
    """Seconds to copy `COPY_BYTES`, and to read them in a matrix-vector product."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = seconds_of(lambda: target.copy_(source), device, 0.5)
    matrix = source.view(torch.float32).view(4096, -1)
    vector = torch.zeros(matrix.shape[1], device=device)
    read = seconds_of(lambda: matrix @ vector, device, 0.5)
    if device.type != "cpu":
        return copied, read
    if computes_bfloat16() and packs_bfloat16():
        layer = nn.Linear(4096, COPY_BYTES // 2 // 4096, bias=False, dtype=torch.bfloat16)
        layers = nn.Sequential(layer)
        pack(layers)
        row = torch.zeros(1, 4096, dtype=torch.bfloat16)
        read = min(read, seconds_of(lambda: layers(row), device, 0.5))
    elif multiplies_bytes():
        outputs = COPY_BYTES // 4096
        weights = kernels.Weights("int8", source, torch.ones(outputs), 4096, outputs)
        one = torch.zeros(1, 4096)
        read = min(read, seconds_of(lambda: kernels.multiply(one, weights), device, 0.5))
    return copied, read


def device_name(device: torch.device) -> str:
    """The name of a GPU, or of the CPU with its class and its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()} ({cpu_class()}), {len(os.sched_getaffinity(0))} cores"
