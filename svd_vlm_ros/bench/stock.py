# SPDX-License-Identifier: Apache-2.0
"""Transformers' own way to an answer, on the engine's weights: what a user has without us.

The processor, `generate` with greedy search, all visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from svd_vlm_ros.bench.samples import now
from svd_vlm_ros.models.weights.layer_speed import layer_speeds
from svd_vlm_ros.models.weights.precision import HEAD, LANGUAGE, QUANTIZED, import_bitsandbytes
from svd_vlm_ros.models.weights.precision_choice import cpu_candidates, fitting_precisions
from svd_vlm_ros.planning.shapes import ModelSizes

if TYPE_CHECKING:
    from svd_vlm_ros.models.interface import LoadedModel


def stock_precision(model: ModelSizes, device: torch.device) -> str:
    """The precision in which transformers and bitsandbytes alone are fastest on a device."""
    if device.type != "cpu":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if bf16 else "fp16"
    candidates = cpu_candidates(model)
    if any(precision in QUANTIZED for precision in candidates):
        import_bitsandbytes()
    speeds = layer_speeds(model, candidates, stock=True)
    fitting = fitting_precisions(model, candidates) or candidates
    return min(fitting, key=lambda precision: speeds[precision].first_token(model))


class Stock:
    """`generate` on a loaded model. It shares the weights and changes nothing of the model.

    On a CPU call it within `packed.unpacked`: else it runs on the engine's faster layers.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._model: Any = loaded.model
        self._device, self._dtype = loaded.device, loaded.dtype
        # The vision encoder, and the connector if it is no part of it.
        ahead = [names for key, names in loaded.components.items() if key not in (LANGUAGE, HEAD)]
        self._parts = [self._model.get_submodule(name) for names in ahead for name in names]

    @torch.inference_mode()
    def answer(self, image: np.ndarray, question: str, tokens: int) -> dict[str, float]:
        """Answer with exactly `tokens` tokens.

        Returns:
            Seconds: preprocess, vision, select (0), project, prefill, first_token, token, answer;
            and prompt_tokens.
        """
        begun = now(self._device)
        inputs = {
            name: self._placed(value)
            for name, value in self._loaded.stock_inputs(image, question).items()
        }
        prepared = now(self._device)
        clock = _Clock(self._device)
        seconds: list[list[float]] = []
        with ExitStack() as timing:
            for part in self._parts:
                seconds.append(timing.enter_context(_timed(part, self._device)))
            self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                streamer=clock,
            )
        first, last = clock.times[1], clock.times[-1]  # the prompt came first
        vision, project = sum(seconds[0]), sum(map(sum, seconds[1:]))
        return {
            "preprocess": prepared - begun,
            "vision": vision,
            "select": 0.0,
            "project": project,
            "prefill": first - prepared - vision - project,
            "first_token": first - begun,
            "token": (last - first) / max(tokens - 1, 1),
            "answer": last - begun,
            "prompt_tokens": float(inputs["input_ids"].shape[1]),
        }

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        dtype = self._dtype if value.is_floating_point() else value.dtype
        return value.to(self._device, dtype)


class _Clock:
    """A streamer that notes when something came. `generate` moves it to the CPU first."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.times: list[float] = []

    def put(self, _: object) -> None:
        self.times.append(now(self._device))

    def end(self) -> None:
        pass


@contextmanager
def _timed(module: nn.Module, device: torch.device) -> Iterator[list[float]]:
    """Collect the seconds of each call of a module; the hooks are gone afterwards."""
    taken: list[float] = []
    begun: list[float] = []
    before: Callable[..., None] = lambda *_: begun.append(now(device))  # noqa: E731
    after: Callable[..., None] = lambda *_: taken.append(now(device) - begun[-1])  # noqa: E731
    hooks = (module.register_forward_pre_hook(before), module.register_forward_hook(after))
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()
