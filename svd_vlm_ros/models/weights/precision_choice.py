# SPDX-License-Identifier: Apache-2.0
"""`precision: auto`: the fastest precision that this machine has for a model and that fits.

On CUDA it is int4. On a CPU the candidates are timed (`layer_speed.py`), and of those whose weights
fit into the free memory the one with the fastest answer is taken; of several that are about as fast
the one with the finest numbers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from svd_vlm_ros.cpu import available_memory, computes_bfloat16, cpu_class, has_avx512
from svd_vlm_ros.models.weights.layer_speed import LayerSpeed, layer_speeds
from svd_vlm_ros.models.weights.packed import packs_half
from svd_vlm_ros.models.weights.precision import (
    INT4_BLOCK,
    LIBRARIES,
    PRECISIONS,
    QUANTIZED,
    check_precision,
    import_bitsandbytes,
)
from svd_vlm_ros.planning.memory import Floats, floats_of, needed_bytes
from svd_vlm_ros.planning.shapes import ModelSizes
from svd_vlm_ros.planning.views import TYPICAL, Size

AUTO = "auto"
SEVERAL = 2.5  # times as fast: worth a warning
CLOSE = 1.08  # times as long as the fastest: then the finer numbers are taken
ROOM = 0.9  # of the free memory: the rest is for what comes and goes


def check_wish(precision: str) -> str:
    """Give a precision or "auto" back. Raises `UserError` where it is not known."""
    if precision != AUTO:
        check_precision(precision, (AUTO, *PRECISIONS))
    return precision


@dataclass(frozen=True)
class Choice:
    """Which precision a model runs in, and why.

    Attributes:
        precision: one of `precision.PRECISIONS`.
        advice: a sentence for the user; empty where there is nothing to say.
        speeds: of each candidate that was timed, the fastest answer first; empty on CUDA.
        fitting: those of them that fit into the free memory.
    """

    precision: str
    advice: str = ""
    speeds: dict[str, LayerSpeed] = field(default_factory=dict)
    fitting: tuple[str, ...] = ()


def choose_precision(
    wish: str, model: ModelSizes, device: torch.device, *, fresh: bool = False
) -> Choice:
    """Decide in which precision a model runs.

    Args:
        wish: "auto", or a precision, which is obeyed.
        model: its sizes.
        device: where it will run.
        fresh: time the candidates anew.
    """
    if device.type != "cpu":
        return Choice(_on_cuda(model) if wish == AUTO else wish)
    candidates = cpu_candidates(model)
    timed = [*candidates, *([] if wish in (AUTO, *candidates) else [wish])]
    if any(precision in QUANTIZED for precision in timed):
        import_bitsandbytes()
    speeds = layer_speeds(model, timed, fresh=fresh)
    order = sorted(timed, key=lambda precision: speeds[precision].answer(model))
    speeds = {precision: speeds[precision] for precision in order}
    fitting = fitting_precisions(model, [each for each in order if each in candidates])
    if wish == AUTO:
        least = min(candidates, key=lambda precision: cpu_bytes(model, precision))
        chosen = _finest_of_the_fast(model, speeds, fitting) if fitting else least
        advice = "" if fitting else _too_large(model, least)
        return Choice(chosen, advice, speeds, fitting)
    return Choice(wish, _faster(wish, model, speeds, fitting), speeds, fitting)


def cpu_candidates(model: ModelSizes) -> tuple[str, ...]:
    """The precisions that `auto` chooses from on a CPU."""
    floats = ("fp32", "bf16") if computes_bfloat16() else ("fp32",)
    return (*floats, *(each for each in QUANTIZED if _can_quantize(model, each)))


def cpu_bytes(model: ModelSizes, precision: str, image: Size = TYPICAL) -> float:
    """About how much memory a model takes on this CPU, with libraries and activations."""
    return needed_bytes(model, precision, cpu_floats(precision), image=image)


def cpu_floats(precision: str) -> Floats:
    """Where bfloat16 is emulated activations take 32 bits, what is not quantized 16 or 32."""
    if precision in QUANTIZED and not computes_bfloat16():
        half = 2 if packs_half() else 4
        return Floats(matrix=half, activation=4, tower=4 if has_avx512() else half)
    return floats_of(precision)


def fitting_precisions(model: ModelSizes, precisions: Sequence[str]) -> tuple[str, ...]:
    """Those of some precisions whose model fits into the free memory, in their order."""
    free = available_memory()
    return tuple(
        each for each in precisions if free is None or cpu_bytes(model, each) <= ROOM * free
    )


def _on_cuda(model: ModelSizes) -> str:
    for precision in ("int4", "int8"):
        if _can_quantize(model, precision):
            return precision
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _can_quantize(model: ModelSizes, precision: str) -> bool:
    if any(importlib.util.find_spec(library) is None for library in LIBRARIES):
        return False
    text = model.decoder
    widths = text.hidden, text.intermediate, text.heads * text.head_size
    return precision != "int4" or not any(width % INT4_BLOCK for width in widths)


def _finest_of_the_fast(
    model: ModelSizes, speeds: dict[str, LayerSpeed], fitting: tuple[str, ...]
) -> str:
    limit = CLOSE * speeds[fitting[0]].answer(model)
    fast = [each for each in fitting if speeds[each].answer(model) <= limit]
    return min(fast, key=PRECISIONS.index)


def _faster(
    wish: str, model: ModelSizes, speeds: dict[str, LayerSpeed], fitting: tuple[str, ...]
) -> str:
    if not fitting:
        return ""
    gain = speeds[wish].answer(model) / speeds[fitting[0]].answer(model)
    if gain < SEVERAL:
        return ""
    return (
        f"{fitting[0]} is about {gain:.0f} times as fast as {wish} on this CPU ({cpu_class()}): "
        "take precision auto, unless you want these numbers."
    )


def _too_large(model: ModelSizes, precision: str) -> str:
    free = available_memory() or 0
    needed = cpu_bytes(model, precision)
    return (
        f"{model.name} needs about {needed / 1e9:.1f} GB of memory in {precision}, and "
        f"{free / 1e9:.1f} GB are free: close other programs, or take a smaller model."
    )
