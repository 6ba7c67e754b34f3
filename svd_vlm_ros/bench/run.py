# SPDX-License-Identifier: Apache-2.0
"""One model in one precision, measured: from loading to the last table, as one plain record."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_vlm_ros.bench.answers import (
    Answered,
    Row,
    Step,
    image_for,
    measure_answers,
    read_rows,
)
from svd_vlm_ros.bench.limits import row_limits
from svd_vlm_ros.bench.machine import Machine, measure_machine
from svd_vlm_ros.bench.memory import in_use, measured_peak
from svd_vlm_ros.bench.questions import measure_questions
from svd_vlm_ros.bench.selectors import measure_selectors
from svd_vlm_ros.bench.stock import Stock
from svd_vlm_ros.defaults import SELECTOR
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.memory import Floats, floats_of
from svd_vlm_ros.planning.shapes import ModelSizes

if TYPE_CHECKING:
    from svd_vlm_ros.engine import SceneEngine

SELECTOR_TOKENS = 16
SELECTORS = 20  # about as many, for the progress bar
TABLES = ("answers", "questions", "selectors")


@dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        model, precision, device, cpu_threads: as `SceneEngine.load` takes them.
        rows: as `answers.read_rows` takes them; "": all tokens and the paper's budgets, with stock
            before them if `stock` is this precision.
        stock: the precision of transformers' `generate` that all is compared with.
        rounds: of measurements.
        answer_tokens: written in each.
        image: width x height of the image, as `answers.image_for` takes it.
        selector: of the rows with fewer tokens than patches.
        tables: which of `TABLES`, parted by commas; the limits of the machine are always there.
    """

    model: str = "scout"
    precision: str = "bf16"
    device: str = "auto"
    cpu_threads: int = 0
    rows: str = ""
    rounds: int = 3
    answer_tokens: int = 16
    selector: str = SELECTOR
    tables: str = ",".join(TABLES)
    stock: str = ""
    image: str = ""

    def __post_init__(self) -> None:
        for name in self.wanted:
            if name not in TABLES:
                raise UserError(f"There is no table '{name}': take some of {', '.join(TABLES)}.")
        if self.rounds < 1:
            raise UserError(f"--rounds must be 1 or more, not {self.rounds}.")
        if self.answer_tokens < 2:
            raise UserError(f"--answer-tokens must be 2 or more, not {self.answer_tokens}.")

    @property
    def wanted(self) -> list[str]:
        """The tables that are measured."""
        return [name.strip() for name in self.tables.split(",")]


def measure(
    settings: BenchSettings, watch: Callable[[int], Step], record: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Measure all tables.

    Args:
        settings: what is measured.
        watch: called once with the number of steps to come, when it is known; returns what is
            called with words before each of them.
        record: filled table by table, so that nothing is lost if a later one fails.

    Returns:
        The record: plain values, for `report` and for JSON. Seconds, bytes; every repeated
        measurement has `median`, `low`, `high` and `runs`.

    Raises:
        UserError: the model, the precision or a row is not to be had.
    """
    from svd_vlm_ros.engine import SceneEngine
    from svd_vlm_ros.models import find_sizes
    from svd_vlm_ros.models.loading import resolve_device
    from svd_vlm_ros.models.weights.precision_choice import AUTO, choose_precision

    record = {} if record is None else record
    device = resolve_device(settings.device)
    before = in_use(device)
    with measured_peak(device) as loading:
        engine = SceneEngine.load(
            settings.model,
            precision=settings.precision,
            device=settings.device,
            cpu_threads=settings.cpu_threads,
        )
    info = engine.info
    memory = {
        "before": before,
        "loading_peak": loading.bytes,
        "loaded": in_use(device),
        "weights": info.weight_bytes,
    }
    try:
        image = image_for(engine, settings.image)
        total = engine.framing(image).patches
        rows = read_rows(settings.rows, total, settings.stock in ("", settings.precision))
        step = watch(len(rows) * (settings.rounds + 1) + settings.rounds + 2 + SELECTORS)
        step("the limits of this machine")
        machine = measure_machine(device, engine.loaded.dtype)
        record |= {
            "date": datetime.date.today().isoformat(),
            "settings": asdict(settings),
            "device": info.device,
            "auto": choose_precision(AUTO, find_sizes(settings.model), device).precision,
            "dtype": info.dtype,
            "random_weights": info.random_weights,
            "image": f"{image.shape[1]}x{image.shape[0]}",
            "machine": {**asdict(machine), "bandwidth": machine.bandwidth},
            "memory": memory,
            "answers": [],
            "questions": {"visual_tokens": min(row.tokens for row in rows), "seconds": {}},
            "selectors": {"visual_tokens": SELECTOR_TOKENS, "seconds": {}},
        }
        _measure_tables(settings, engine, image, rows, machine, step, record)
    finally:
        engine.close()
    return record


def _measure_tables(
    settings: BenchSettings,
    engine: SceneEngine,
    image: np.ndarray,
    rows: list[Row],
    machine: Machine,
    step: Step,
    record: dict[str, Any],
) -> None:
    from svd_vlm_ros.models import find_sizes
    from svd_vlm_ros.models.weights.precision_choice import cpu_floats

    loaded = engine.loaded  # stock shares the weights
    shared: dict[str, Any] = {
        "selector": settings.selector,
        "rounds": settings.rounds,
        "answer_tokens": settings.answer_tokens,
        "step": step,
    }
    if "answers" in settings.wanted:
        stock = Stock(loaded)
        sizes = find_sizes(settings.model)
        answered = measure_answers(engine, image, stock, rows, **shared)
        on_cpu = loaded.device.type == "cpu"
        floats = (cpu_floats if on_cpu else floats_of)(settings.precision)
        record["answers"] = [
            _row(each, sizes, floats, machine, image.shape, settings) for each in answered
        ]
    if "questions" in settings.wanted:
        tokens = record["questions"]["visual_tokens"]
        taken = measure_questions(engine, image, tokens, **shared)
        record["questions"]["seconds"] = {name: asdict(spread) for name, spread in taken.items()}
    if "selectors" in settings.wanted:
        record["selectors"]["seconds"] = measure_selectors(
            loaded.device, loaded.dtype, SELECTOR_TOKENS, step
        )


def _row(
    each: Answered,
    sizes: ModelSizes,
    floats: Floats,
    machine: Machine,
    shape: tuple[int, ...],
    settings: BenchSettings,
) -> dict[str, Any]:
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
            floats,
            machine,
            image=(shape[0], shape[1]),
            visual_tokens=each.row.tokens,
            prompt_tokens=each.prompt_tokens,
            answer_tokens=settings.answer_tokens,
            first_token=seconds["first_token"].median,
            token=seconds["token"].median,
        ),
    }
