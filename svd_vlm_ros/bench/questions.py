# SPDX-License-Identifier: Apache-2.0
"""The second table: what further questions on one image cost, in turn and together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from svd_vlm_ros.bench.answers import CHOICES, Step, select_tokens
from svd_vlm_ros.bench.samples import Spread, now, spreads

if TYPE_CHECKING:
    from svd_vlm_ros.engine import Scene, SceneEngine

QUESTIONS = (
    "Is the path clear?",
    "Is there a person in the picture?",
    "Is the door on the left open?",
    "Does the ground look wet?",
    "Can the robot turn around here?",
    "Is anything about to fall over?",
    "Is the light ahead green?",
    "Has somebody left a bag behind?",
)


def measure_questions(
    engine: SceneEngine,
    image: np.ndarray,
    tokens: int,
    *,
    selector: str,
    rounds: int,
    answer_tokens: int,
    step: Step,
) -> dict[str, Spread]:
    """Eight questions on one image, as yes/no choices and in free text.

    Args:
        image: from `answers.image_for`.
        engine: keeps `tokens` visual tokens by `selector`.
        rounds: of measurements, after one that is not counted.
        answer_tokens: the longest answer in free text.
        step: called with words before each measurement.

    Returns:
        Seconds: `choose_first` and `ask_first` (from the pixels to the answer of one question);
        `choose_next`, `ask_next` (the mean of the eight that follow on the same Scene);
        `choose_turn`, `ask_turn` (those eight, one after the other); `choose_together`,
        `ask_together` (the eight waiting together).
    """
    device = torch.device(engine.info.device)
    select_tokens(engine, tokens, engine.framing(image).patches, selector)
    asked = [(question, CHOICES) for question in QUESTIONS]
    runs = []
    for number in range(rounds + 1):
        step("questions on one image" + ("" if number else ", warming up"))
        limit = answer_tokens if number else 2
        chosen = _measure(
            device,
            lambda: engine.see(image),
            lambda scene, one: engine.choose(scene, *one),
            lambda scene: engine.choose_many(scene, asked),
            asked,
        )
        answered = _measure(
            device,
            lambda: engine.see(image),
            partial(engine.ask, max_new_tokens=limit),
            partial(engine.ask_many, questions=QUESTIONS, max_new_tokens=limit),
            QUESTIONS,
        )
        runs.append(
            {f"choose_{name}": seconds for name, seconds in chosen.items()}
            | {f"ask_{name}": seconds for name, seconds in answered.items()}
        )
    return spreads(runs[1:])


def _measure(
    device: torch.device,
    see: Callable[[], Scene],
    ask: Callable[[Scene, Any], object],
    together: Callable[[Scene], object],
    questions: Sequence[Any],
) -> dict[str, float]:
    begun = now(device)
    scene = see()
    ask(scene, questions[0])
    first = now(device)
    for question in questions:
        ask(scene, question)
    turn = now(device)
    together(scene)
    return {
        "first": first - begun,
        "next": (turn - first) / len(questions),
        "turn": turn - first,
        "together": now(device) - turn,
    }
