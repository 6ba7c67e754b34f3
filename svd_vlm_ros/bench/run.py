# SPDX-License-Identifier: Apache-2.0
"""One model in one precision, measured: from loading to the last table, as one plain record."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from svd_vlm_ros.bench.answers import (
    Answered,
    Step,
    measure_answers,
    read_rows,
)
from svd_vlm_ros.bench.limits import row_limits
from svd_vlm_ros.bench.machine import Machine, measure_machine
from svd_vlm_ros.bench.memory import in_use, measured_peak
from svd_vlm_ros.bench.questions import measure_questions
from svd_vlm_ros.bench.selectors import measure_selectors
from svd_vlm_ros.bench.stock import Stock
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.shapes import Llava, llava_from_config

SELECTOR_TOKENS = 16


@dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        model, precision, device, cpu_threads: as `SceneEngine.load` takes them.
        rows: as `answers.read_rows` takes them.
        rounds: of measurements.
        answer_tokens: written in each.
        selector: of the rows with fewer tokens than patches.
    """

    model: str = "scout"
    precision: str = "bf16"
    device: str = "auto"
    cpu_threads: int = 0
    rows: str = "stock,576,192,128,64,32,16"
    rounds: int = 3
    answer_tokens: int = 16
    selector: str = "svd"

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"--rounds must be 1 or more, not {self.rounds}.")
        if self.answer_tokens < 2:
            raise UserError(f"--answer-tokens must be 2 or more, not {self.answer_tokens}.")


def measure(settings: BenchSettings, watch: Callable[[int], Step]) -> dict[str, Any]:
    """Measure all tables.

    Args:
        settings: what is measured.
        watch: called once with the number of steps to come, when it is known; returns what is
            called with words before each of them.

    Returns:
        A record of plain values, for `report` and for JSON. Seconds, bytes; every repeated
        measurement has `median`, `low`, `high` and `runs`.

    Raises:
        UserError: the model, the precision or a row is not to be had.
    """
    from transformers import AutoProcessor

    from svd_vlm_ros.engine import SceneEngine
    from svd_vlm_ros.llava.files import find_folder
    from svd_vlm_ros.llava.loading import resolve_device

    device = resolve_device(settings.device)
    before = in_use(device)
    with measured_peak(device) as loading:
        engine = SceneEngine.load(
            settings.model,
            precision=settings.precision,
            device=settings.device,
            cpu_threads=settings.cpu_threads,
        )
    loaded_bytes = in_use(device)
    try:
        rows = read_rows(settings.rows, engine.info.visual_tokens_total)
        loaded = engine._open()  # stock shares the weights, which the engine has for itself
        processor = AutoProcessor.from_pretrained(
            find_folder(settings.model), local_files_only=True
        )
        fewest = min((row.tokens for row in rows), default=SELECTOR_TOKENS)
        names = 20  # about as many selectors
        step = watch(len(rows) * (settings.rounds + 1) + settings.rounds + 2 + names)
        step("the limits of this machine")
        machine = measure_machine(device, loaded.dtype)
        answered = measure_answers(
            engine,
            Stock(loaded, processor),
            rows,
            selector=settings.selector,
            rounds=settings.rounds,
            answer_tokens=settings.answer_tokens,
            step=step,
        )
        questions = measure_questions(
            engine,
            fewest,
            selector=settings.selector,
            rounds=settings.rounds,
            answer_tokens=settings.answer_tokens,
            step=step,
        )
        selectors = measure_selectors(device, loaded.dtype, SELECTOR_TOKENS, step)
        sizes = llava_from_config(settings.model, loaded.model.config.to_dict())
        info = engine.info
    finally:
        engine.close()
    return {
        "date": datetime.date.today().isoformat(),
        "settings": asdict(settings),
        "device": info.device,
        "dtype": info.dtype,
        "random_weights": info.random_weights,
        "machine": {**asdict(machine), "bandwidth": machine.bandwidth},
        "memory": {
            "before": before,
            "loading_peak": loading.bytes,
            "loaded": loaded_bytes,
            "weights": info.weight_bytes,
        },
        "answers": [_row(each, sizes, machine, settings) for each in answered],
        "questions": {
            "visual_tokens": fewest,
            "seconds": {name: asdict(spread) for name, spread in questions.items()},
        },
        "selectors": {"visual_tokens": SELECTOR_TOKENS, "seconds": selectors},
    }


def _row(each: Answered, sizes: Llava, machine: Machine, settings: BenchSettings) -> dict[str, Any]:
    seconds = each.seconds
    return {
        "name": each.row.name,
        "visual_tokens": each.row.tokens,
        "prompt_tokens": each.prompt_tokens,
        "seconds": {name: asdict(spread) for name, spread in seconds.items()},
        "frames_per_second": 1 / seconds["answer"].median,
        "peak_bytes": each.peak_bytes,
        "kernel_seconds": each.kernel_seconds,
        **row_limits(
            sizes,
            settings.precision,
            machine,
            visual_tokens=each.row.tokens,
            prompt_tokens=each.prompt_tokens,
            answer_tokens=settings.answer_tokens,
            first_token=seconds["first_token"].median,
            token=seconds["token"].median,
        ),
    }
