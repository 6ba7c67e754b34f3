# SPDX-License-Identifier: Apache-2.0
"""What standing questions cost: ten facts on one image against one, as a ratio within one run.

    python benchmark/facts.py

Each round looks at an image anew and asks its facts in one pass, as the node does on each image
that it describes; rounds with one fact and with ten alternate, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.facts import Fact, parse_fact

FACTS = [
    "path: is the path clear?",
    "person: is there a person?",
    "box: is there a box?",
    "ball: is there a ball?",
    "ground: what is the ground? [grass, sand, snow, road]",
    "sky: what is the sky? [blue, grey, dark]",
    "left: is there something on the left?",
    "right: is there something on the right?",
    "near: is something near?",
    "gate: is the gate open?",
]


def seconds(engine: SceneEngine, image: np.ndarray, facts: list[Fact]) -> float:
    """One look at an image with its facts."""
    begun = time.perf_counter()
    scene = engine.see(image)
    engine.choose_many(scene, [(fact.question, fact.choices) for fact in facts])
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="scout")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    engine = SceneEngine.load(arguments.model, precision=arguments.precision)
    engine.warm_up()
    facts = [parse_fact(line) for line in FACTS]
    side = engine.info.image_size
    images = np.random.default_rng(0).integers(0, 256, (arguments.rounds, side, side, 3), np.uint8)
    one, ten = [], []
    for image in [images[0], *images]:
        one.append(seconds(engine, image, facts[:1]))
        ten.append(seconds(engine, image, facts))
    ratios = [b / a for a, b in zip(one[1:], ten[1:], strict=True)]  # the first round warms up
    print(f"{arguments.model}, {engine.info.device}, {engine.info.visual_tokens} visual tokens")
    print(f"one fact:  {statistics.median(one[1:]) * 1e3:.1f} ms (median of {arguments.rounds})")
    print(f"ten facts: {statistics.median(ten[1:]) * 1e3:.1f} ms")
    print(
        f"ratio:     {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
