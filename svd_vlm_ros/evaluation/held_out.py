# SPDX-License-Identifier: Apache-2.0
"""Scout's held-out scenes as a task: drawn when they are asked about, with one true answer each."""

from __future__ import annotations

import hashlib

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.tasks import Item, Task
from svd_vlm_ros.scout.questions import QUESTION_KINDS, Question, questions
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, WorldScene, sample_scene

IMAGES = 100
"""Scenes that are asked about if no number is given: 1,100 questions and more."""

MAX_NEW_TOKENS = 96  # the longest description of six objects

PROTOCOL = (
    "Scout's held-out scenes, which training never saw; one question of each kind that a scene "
    "allows; greedy; exact answers."
)


def scout_task(images: int = 0) -> Task:
    """The first held-out scenes, each with one question of each kind that it allows.

    Args:
        images: how many scenes; 0: `IMAGES`.
    """
    images = images or IMAGES
    if images > len(HELD_OUT_SEEDS):
        raise UserError(f"There are {len(HELD_OUT_SEEDS)} held-out scenes: ask for fewer.")
    items = [
        Item(
            id=f"{seed}/{question.kind}",
            image=str(seed),
            question=question.text,
            truth=(question.answer,),
            kind=question.kind,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        for seed in HELD_OUT_SEEDS[:images]
        for question in one_of_each(sample_scene(seed))
    ]
    return Task(
        name="scout",
        items=tuple(items),
        read=lambda key: render(sample_scene(int(key))),
        score=lambda item, answer: float(same_answer(answer, item.truth[0])),
        protocol=PROTOCOL,
        fingerprint=_first_scene(),
    )


def one_of_each(scene: WorldScene) -> list[Question]:
    """One question of each kind that the scene allows, in a wording drawn by the scene's seed."""
    rng = np.random.default_rng((scene.seed, 11))
    pool = questions(scene, rng)
    found: dict[str, Question] = {}
    for i in rng.permutation(len(pool)):
        found.setdefault(pool[i].kind, pool[i])
    return [found[kind] for kind in QUESTION_KINDS if kind in found]


def same_answer(given: str, true: str) -> bool:
    """Exact but for capitals and white space at the ends."""
    return given.strip().lower() == true


def _first_scene() -> str:
    """Changes with the world's drawing or questions, and not with the number of scenes."""
    digest = hashlib.sha256()
    for seed in HELD_OUT_SEEDS[:2]:
        scene = sample_scene(seed)
        digest.update(render(scene).tobytes())
        digest.update(repr([(q.text, q.answer) for q in one_of_each(scene)]).encode())
    return digest.hexdigest()[:16]
