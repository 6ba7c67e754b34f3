# SPDX-License-Identifier: Apache-2.0
"""Seconds from a roofline: arithmetic or memory, whichever is slower, at efficiencies that others'
measurements show.

* Reading n tokens takes max(2 MACs / (rate x compute), bytes / (bandwidth x memory)).
* Writing a token takes bytes / (bandwidth x memory): each weight is read once.
* Without CUDA graphs the CPU launches each kernel, and the GPU waits for it: `launch` seconds a
  layer and pass come on top.

The efficiencies of each kind of software are geometric means over its measurements
(`published.py`); `launch` is a mean. `check` holds the model against each of them, solved with it
and without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from svd_vlm_ros.planning.devices import DEVICES, Device
from svd_vlm_ros.planning.flops import read_work, vision_work
from svd_vlm_ros.planning.published import (
    EAGER,
    ENGINE,
    LLAMA_CPP,
    MEASUREMENTS,
    Measurement,
)
from svd_vlm_ros.planning.shapes import Decoder

GOOD_PREFILL = 64  # tokens from which on reading is limited by arithmetic on every module


@dataclass(frozen=True)
class Software:
    """How near to its module's limits a kind of software comes.

    Attributes:
        name: "engine": compiled, with fused low-bit kernels (MLC, TensorRT Edge-LLM, TinyChat).
            "eager": PyTorch, kernel by kernel. "llama.cpp".
        compute: share of the dense FP16 rate, while reading.
        memory: share of the bandwidth, while writing.
        launch: seconds that each layer and pass cost on top.
    """

    name: str
    compute: float
    memory: float
    launch: float


@dataclass(frozen=True)
class Time:
    """Seconds of one pass, by what they are spent on."""

    compute: float
    memory: float
    launch: float

    @property
    def seconds(self) -> float:
        """Arithmetic and memory overlap, launching comes on top."""
        return max(self.compute, self.memory) + self.launch

    @property
    def limit(self) -> str:
        """What limits it: "compute", "bandwidth" or "kernel launches"."""
        if self.launch > max(self.compute, self.memory):
            return "kernel launches"
        return "compute" if self.compute >= self.memory else "bandwidth"


@dataclass(frozen=True)
class Checked:
    """A measurement beside what the model gives for it.

    Attributes:
        measurement: the published number.
        seconds: what the model gives.
        error: (model - measured) / measured, of seconds.
        unseen_error: the same with the efficiencies solved from the others alone; None if it is
            the only one of its kind.
    """

    measurement: Measurement
    seconds: float
    error: float
    unseen_error: float | None


def pass_time(
    device: Device, software: Software, macs: float, bytes_read: float, layers: int
) -> Time:
    """The time of one pass that multiplies `macs` times and reads `bytes_read`."""
    return Time(
        compute=2 * macs / (device.fp16_tflops * 1e12 * software.compute),
        memory=bytes_read / (device.bandwidth_gbs * 1e9 * software.memory),
        launch=software.launch * layers,
    )


def software(name: str) -> Software:
    """A kind of software, with its efficiencies solved from all of its measurements."""
    return _all_software()[name]


@cache
def _all_software() -> dict[str, Software]:
    return solve(MEASUREMENTS)


def solve(measurements: Iterable[Measurement]) -> dict[str, Software]:
    """The efficiencies that meet the held measurements best.

    Raises:
        ValueError: there is no reading or no writing by an engine among them.
    """
    held = [m for m in measurements if m.held]
    compute, memory, launches, llama = [], [], [], []
    for m in held:
        device = DEVICES[m.device]
        if m.kind == "prefill" and m.runtime == ENGINE and m.tokens >= GOOD_PREFILL:
            compute.append(2 * _macs(m) / (device.fp16_tflops * 1e12 * m.seconds))
        elif m.kind == "decode" and m.runtime == ENGINE:
            memory.append(_bytes(m) / (device.bandwidth_gbs * 1e9 * m.seconds))
        elif m.kind == "decode" and m.runtime == LLAMA_CPP:
            llama.append(_bytes(m) / (device.bandwidth_gbs * 1e9 * m.seconds))
    if not compute or not memory:
        raise ValueError("the engine's efficiencies can't be solved from these measurements")
    engine = Software(ENGINE, _mean(compute), _mean(memory), 0.0)
    for m in held:
        if m.kind == "decode" and m.runtime == EAGER and m.decoder:
            bare = pass_time(DEVICES[m.device], engine, 0.0, _bytes(m), 0).seconds
            launches.append((m.seconds - bare) / m.decoder.layers)
    launch = sum(launches) / len(launches) if launches else 0.0
    return {
        ENGINE: engine,
        EAGER: Software(EAGER, engine.compute, engine.memory, launch),
        # No reading speed of llama.cpp was published: the engine's is taken.
        LLAMA_CPP: Software(LLAMA_CPP, engine.compute, _mean(llama) if llama else math.nan, 0.0),
    }


def predict(m: Measurement, known: dict[str, Software]) -> float:
    """The seconds that the model gives for a measurement."""
    device, kind = DEVICES[m.device], known[m.runtime]
    seconds = 0.0
    if m.model and m.kind in ("vision", "image"):
        view = m.model.view(m.image)
        macs = vision_work(m.model.tower, view) + view.tokens * m.model.connector.token_macs
        seconds += pass_time(device, kind, macs, 0.0, m.model.tower.layers_used).seconds
    if m.decoder and m.kind in ("prefill", "image"):
        seconds += pass_time(device, kind, _macs(m), _bytes(m), m.decoder.layers).seconds
    if m.decoder and m.kind in ("decode", "image"):
        step = pass_time(device, kind, 0.0, _bytes(m), m.decoder.layers).seconds
        seconds += step * (1 if m.kind == "decode" else m.answer)
    return seconds


def check(measurements: Sequence[Measurement] = MEASUREMENTS) -> list[Checked]:
    """Each published measurement beside what the model gives, solved with it and without it."""
    known = solve(measurements)
    checked = []
    for m in measurements:
        seconds = predict(m, known)
        others = solve([other for other in measurements if other is not m])
        alone = math.isnan(others[m.runtime].memory)
        unseen = None if alone else predict(m, others) / m.seconds - 1
        checked.append(Checked(m, seconds, seconds / m.seconds - 1, unseen))
    return checked


def _macs(m: Measurement) -> float:
    assert m.decoder is not None
    return read_work(m.decoder, m.tokens)


def _bytes(m: Measurement) -> float:
    """Weights that a pass reads, and the cache behind a written token."""
    decoder: Decoder | None = m.decoder
    assert decoder is not None
    weights = decoder.linear_weights * m.bits + decoder.embedding_weights * m.head_bits
    cached = 2 * decoder.cache_numbers * m.tokens if m.kind == "decode" else 0
    return weights / 8 + cached


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
