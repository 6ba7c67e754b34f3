# SPDX-License-Identifier: Apache-2.0
"""All precisions of one model by turns in one process, so that all meet the same machine.

    python benchmark/precisions.py
    python benchmark/precisions.py --model random:llava-1.5-7b:8 --precision fp32,int8 --stock 2

Which precision `auto` takes, and what each of them costs: from the image to the first token, each
further token, and an answer of 16 tokens (the first and 15 further ones). Needs the memory of all
these models at once.

`--stock 2` measures transformers' `generate` with all visual tokens as well, twice in each
precision, in one block behind the rounds: its layers are put back once, which takes a minute for
the sizes of LLaVA-1.5-7B. (`svd-vlm bench` does so in each of its rounds, and has the stages.)
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch

from svd_vlm_ros.bench.stock import Stock
from svd_vlm_ros.cpu import cpu_class, cpu_name
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.models import find_sizes
from svd_vlm_ros.models.weights.packed import unpacked
from svd_vlm_ros.models.weights.precision_choice import choose_precision

QUESTION = "Describe what is in front of the robot, and where."
Times = dict[str, list[tuple[float, float]]]


def seconds(engine: SceneEngine, image: np.ndarray, tokens: int) -> tuple[float, float]:
    """To the first token, and of each further one."""
    scene = engine.see(image)
    answer = engine.ask(scene, QUESTION, max_new_tokens=tokens)
    # Both ends of `decode` are tokens; the end token of an answer that ends early is one as well.
    steps = answer.answer_tokens - (answer.finish_reason == "length")
    return scene.timings.total + answer.timings.first_token, answer.timings.decode / max(steps, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="scout")
    parser.add_argument("--precision", default="fp32,bf16,int8,int4")
    parser.add_argument("--visual-tokens", default="192,64,16")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--answer-tokens", type=int, default=16)
    parser.add_argument("--stock", type=int, default=0, help="answers by generate")
    arguments = parser.parse_args()
    tokens = arguments.answer_tokens
    sizes, cpu = find_sizes(arguments.model), torch.device("cpu")
    automatic = choose_precision("auto", sizes, cpu).precision
    engines = {
        precision: SceneEngine.load(arguments.model, precision=precision, device="cpu")
        for precision in arguments.precision.split(",")
    }
    side = next(iter(engines.values())).info.image_size
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    print(f"{arguments.model} on {cpu_name()} ({cpu_class()}); auto takes {automatic}\n")
    print("| visual tokens | precision | first token | each token | answer | of the fastest |")
    print("|---|---|---:|---:|---:|---:|")
    for visual_tokens in map(int, arguments.visual_tokens.split(",")):
        times: Times = {precision: [] for precision in engines}
        for engine in engines.values():
            engine.use_selector(engine.info.selector, visual_tokens=visual_tokens)
            seconds(engine, image, tokens)
        for _ in range(arguments.rounds):
            for precision, engine in engines.items():
                times[precision].append(seconds(engine, image, tokens))
        show(str(visual_tokens), times, tokens, automatic)
    if arguments.stock:
        times = {}
        for precision, engine in engines.items():
            stock = Stock(engine.loaded)
            with unpacked(engine.loaded.model):
                stock.answer(image, QUESTION, 2)
                taken = [stock.answer(image, QUESTION, tokens) for _ in range(arguments.stock)]
            times[precision] = [(each["first_token"], each["token"]) for each in taken]
        show("stock", times, tokens)


def show(name: str, times: Times, tokens: int, automatic: str = "") -> None:
    """The medians of each precision, and its answer beside the fastest one."""
    medians = {
        precision: tuple(statistics.median(part) for part in zip(*some, strict=True))
        for precision, some in times.items()
    }
    answers = {p: first + (tokens - 1) * each for p, (first, each) in medians.items()}
    for precision, (first, each) in medians.items():
        words = f"**{precision}** (auto)" if precision == automatic else precision
        print(
            f"| {name} | {words} | {1000 * first:.0f} ms | {1000 * each:.1f} ms "
            f"| {1000 * answers[precision]:.0f} ms "
            f"| {answers[precision] / min(answers.values()):.2f} x |",
            flush=True,
        )


if __name__ == "__main__":
    main()
