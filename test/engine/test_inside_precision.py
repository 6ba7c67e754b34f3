# SPDX-License-Identifier: Apache-2.0
"""Selectors inside the language model do not change their mind by rounding, nor by company."""

from dataclasses import replace

import pytest

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene

QUESTION = "is the path clear?"
OTHERS = ("what is the ground?", "describe the scene.", "how many objects are there?")
BUDGET = 192
IMAGES = 8


@pytest.fixture(scope="module")
def engine():
    made = SceneEngine.load("scout", precision="fp32", device="cpu", visual_tokens=BUDGET)
    yield made
    made.close()


def kept(answer):
    return set(answer.selection.indices.tolist())


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "sparsevlm", "atp"])
def test_float16_features_change_at_most_2_percent(engine, name):
    engine.use_selector(name)
    changed = total = 0
    for seed in HELD_OUT_SEEDS[:IMAGES]:
        image = render(sample_scene(seed))
        features, framing = engine.features(image), engine.framing(image)
        rounded = replace(features, patches=features.patches.half().float())
        whole, half = (
            kept(engine.ask(engine.see_features(seen, framing, image.shape), QUESTION))
            for seen in (features, rounded)
        )
        changed, total = changed + len(whole - half), total + len(whole)
    assert changed <= 0.02 * total


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "sparsevlm", "atp"])
def test_a_question_among_four_keeps_what_it_keeps_alone(engine, name):
    engine.use_selector(name)
    scene = engine.see(render(sample_scene(HELD_OUT_SEEDS[0])))
    alone = engine.ask(scene, QUESTION)
    among = engine.ask_many(scene, [OTHERS[0], QUESTION, *OTHERS[1:]])[1]
    assert kept(among) == kept(alone)
    assert among.layer_tokens == alone.layer_tokens
    assert among.token_ids == alone.token_ids
