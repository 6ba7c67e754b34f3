# SPDX-License-Identifier: Apache-2.0
"""The second table: what the 2nd to 8th question on one picture cost, in turn and together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from svd_vlm_ros.bench.answers import CHOICES, Step, make_picture, select_tokens
from svd_vlm_ros.bench.samples import Spread, now, spreads

if TYPE_CHECKING:
    from svd_vlm_ros.engine import SceneEngine

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
    tokens: int,
    *,
    selector: str,
    rounds: int,
    answer_tokens: int,
    step: Step,
) -> dict[str, Spread]:
    """Eight questions on one picture, as yes/no choices and in free text.

    Args:
        engine: keeps `tokens` visual tokens by `selector`.
        rounds: of measurements, after one that is not counted.
        answer_tokens: the longest answer in free text.
        step: called with words before each measurement.

    Returns:
        Seconds: `see` (up to the Scene); `choose_first` and `ask_first` (with `see`);
        `choose_next`, `ask_next` (the mean of the 2nd to 8th on the same Scene); `choose_turn`,
        `ask_turn` (all eight, one after the other on the Scene); `choose_together`, `ask_together`
        (all eight waiting together).
    """
    device = torch.device(engine.info.device)
    select_tokens(engine, tokens, selector)
    picture = make_picture(engine.info.image_size)
    asked = [(question, CHOICES) for question in QUESTIONS]
    runs = []
    for number in range(rounds + 1):
        step("questions on one picture" + ("" if number else ", warming up"))
        limit = answer_tokens if number else 2
        begun = now(device)
        scene = engine.see(picture)
        seen = now(device)
        chosen = []
        for question, choices in asked:
            engine.choose(scene, question, choices)
            chosen.append(now(device))
        engine.choose_many(scene, asked)
        chosen_together = now(device)
        answered = []
        for question in QUESTIONS:
            engine.ask(scene, question, max_new_tokens=limit)
            answered.append(now(device))
        engine.ask_many(scene, QUESTIONS, max_new_tokens=limit)
        answered_together = now(device)
        others = len(QUESTIONS) - 1
        runs.append(
            {
                "see": seen - begun,
                "choose_first": chosen[0] - begun,
                "choose_next": (chosen[-1] - chosen[0]) / others,
                "choose_turn": chosen[-1] - seen,
                "choose_together": chosen_together - chosen[-1],
                "ask_first": seen - begun + answered[0] - chosen_together,
                "ask_next": (answered[-1] - answered[0]) / others,
                "ask_turn": answered[-1] - chosen_together,
                "ask_together": answered_together - answered[-1],
            }
        )
    return spreads(runs[1:])
