# SPDX-License-Identifier: Apache-2.0
"""The first table: one image, one question, an answer; transformers' `generate`, then the engine.

The rows take turns, round by round, so that a machine that slows down slows all of them down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from svd_vlm_ros.bench import STOCK
from svd_vlm_ros.bench.memory import measured_peak
from svd_vlm_ros.bench.samples import Spread, spreads
from svd_vlm_ros.bench.stock import Stock
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.weights.packed import unpacked
from svd_vlm_ros.planning.flops import PAPER_TOKENS

if TYPE_CHECKING:
    from svd_vlm_ros.engine import SceneEngine

QUESTION = "What stands in front of the robot, and is there room to pass it on the left?"
YES_NO = "Is the path clear?"
CHOICES = ("Yes", "No")

MAX_PIXELS = 50_000_000  # of an image that is measured

Step = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: "stock" for `generate`, else the number of visual tokens as text.
        tokens: visual tokens that the language model reads.
    """

    name: str
    tokens: int

    @property
    def words(self) -> str:
        """What the row is, for people."""
        return f"{STOCK}, {self.tokens}" if self.name == STOCK else f"{self.tokens} tokens"


@dataclass(frozen=True)
class Answered:
    """A row's measurements.

    Attributes:
        row: which one.
        seconds: preprocess, vision, select, project, prefill, first_token, token, answer, yes_no.
        peak_bytes: the most memory in use in any round; 0 if it is not known.
        prompt_tokens: all tokens in front of the answer.
        kernel_seconds: of CUDA kernels for one answer; None on a CPU.
    """

    row: Row
    seconds: dict[str, Spread]
    peak_bytes: int
    prompt_tokens: int
    kernel_seconds: float | None


def read_rows(text: str, patches: int, stock: bool = True) -> list[Row]:
    """The rows that a list such as `stock,576,64,16` names, each once, in its order.

    An empty list is the stock row (if `stock`), all tokens, and the budgets of the paper.

    Raises:
        UserError: one is neither "stock" nor a number of tokens that the model has.
    """
    if not text.strip():
        fewer = [tokens for tokens in PAPER_TOKENS if tokens < patches]
        first = [Row(STOCK, patches)] if stock else []
        return [*first, *(Row(str(tokens), tokens) for tokens in (patches, *fewer))]
    rows = []
    for name in dict.fromkeys(part.strip() for part in text.split(",")):
        tokens = patches if name == STOCK else int(name) if name.isdigit() else 0
        if not 1 <= tokens <= patches:
            raise UserError(
                f"There is no row '{name}': take {STOCK} or a number of visual tokens, "
                f"1 to {patches}."
            )
        rows.append(Row(name, tokens))
    return rows


def make_image(height: int, width: int) -> np.ndarray:
    """An image [height, width, 3] of large shapes and fine grain."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 200, (8, 8, 3), dtype=np.uint8)
    down, across = -(-height // 8), -(-width // 8)
    shapes = coarse.repeat(down, axis=0).repeat(across, axis=1)[:height, :width]
    grain = generator.integers(0, 56, (height, width, 3), dtype=np.uint8)
    return shapes + grain


def image_for(engine: SceneEngine, size: str) -> np.ndarray:
    """The image that is measured.

    Args:
        engine: of the model.
        size: width x height in pixels, such as "1280x720"; "": a typical image; of a model that
            looks at squares it is one of its own size, of which nothing is padded.

    Raises:
        UserError: it is no size.
    """
    if not size:
        return make_image(*engine.info.typical_image)
    width, _, height = size.partition("x")
    if not (width.isdigit() and height.isdigit() and 1 <= int(width) * int(height) <= MAX_PIXELS):
        raise UserError(f"'{size}' is no size of an image: write width x height, as in 1280x720.")
    return make_image(int(height), int(width))


def measure_answers(
    engine: SceneEngine,
    image: np.ndarray,
    stock: Stock,
    rows: Sequence[Row],
    *,
    selector: str,
    rounds: int,
    answer_tokens: int,
    step: Step,
) -> list[Answered]:
    """Measure every row once a round, after one short answer each to warm up.

    Args:
        engine: whose weights `stock` shares.
        image: from `image_for`.
        selector: for the rows with fewer tokens than there are patches.
        rounds: of measurements.
        answer_tokens: written in each.
        step: called with words before each measurement.
    """
    device = torch.device(engine.info.device)

    def run(row: Row, tokens: int) -> dict[str, float]:
        if row.name == STOCK:
            # As a user has it: with the layers as transformers and bitsandbytes make them.
            with unpacked(engine.loaded.model):
                taken = stock.answer(image, QUESTION, tokens)
            return {**taken, "yes_no": taken["first_token"]}
        return _engine_answer(engine, image, row, selector, tokens)

    for row in rows:
        step(f"warming up: {row.words}")
        run(row, 2)
    runs: dict[str, list[dict[str, float]]] = {row.name: [] for row in rows}
    peaks = dict.fromkeys(runs, 0)
    for number in range(1, rounds + 1):
        for row in rows:
            step(f"round {number} of {rounds}: {row.words}")
            with measured_peak(device) as peak:
                runs[row.name].append(run(row, answer_tokens))
            peaks[row.name] = max(peaks[row.name], peak.bytes)
    answered = []
    for row in rows:
        prompt_tokens = [int(taken.pop("prompt_tokens")) for taken in runs[row.name]]
        kernels = _kernel_seconds(device, run, row, answer_tokens)
        answered.append(
            Answered(row, spreads(runs[row.name]), peaks[row.name], prompt_tokens[0], kernels)
        )
    return answered


def select_tokens(engine: SceneEngine, kept: int, total: int, selector: str) -> None:
    """Let an engine keep so many of an image's tokens; all of them without a selector."""
    engine.use_selector("none" if kept == total else selector, visual_tokens=kept)


def _engine_answer(
    engine: SceneEngine, image: np.ndarray, row: Row, selector: str, tokens: int
) -> dict[str, float]:
    """See and ask, see and choose; the seconds are those that the engine gives out.

    Selectors that look at the question do their work in `ask`, whose timings then hold it.
    """
    select_tokens(engine, row.tokens, engine.framing(image).patches, selector)
    scene = engine.see(image)
    answer = engine.ask(scene, QUESTION, max_new_tokens=tokens)
    unread = engine.see(image)  # an image is read with the first question
    chosen = engine.choose(unread, YES_NO, CHOICES)
    made, asked = scene.timings, asdict(answer.timings)
    # A model may end its answer early: what a token takes is known all the same.
    steps = answer.answer_tokens - 1 + (answer.finish_reason == "stop")
    token = asked["decode"] / steps if steps > 0 else 0.0
    first_token = made.total + asked["first_token"]
    return {
        "preprocess": made.preprocess,
        "vision": made.encode,
        "select": made.select + asked.get("select", 0.0),
        "project": made.project + asked.get("project", 0.0),
        "prefill": made.prefill + asked["prefill"],
        "first_token": first_token,
        "token": token,
        "answer": first_token + (tokens - 1) * token,
        "yes_no": unread.timings.total + chosen.timings.total,
        "prompt_tokens": float(answer.prompt_tokens),
    }


def _kernel_seconds(
    device: torch.device, run: Callable[[Row, int], object], row: Row, tokens: int
) -> float | None:
    """Seconds that CUDA kernels run for one answer, from torch's profiler."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run(row, tokens)
        torch.cuda.synchronize(device)
    return sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
