# SPDX-License-Identifier: Apache-2.0
"""The engine with the embedded model: exact selection on its features, and scenes asked twice."""

import numpy as np
import pytest
import torch
from full_svd import full_svd_leverage, top

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene
from svd_vlm_ros.selection import Budget, make_selector

BUDGETS = (192, 128, 64, 32, 16)
IMAGES = 12


@pytest.fixture(scope="module")
def images():
    return [render(sample_scene(seed)) for seed in HELD_OUT_SEEDS[:IMAGES]]


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def engine(request):
    return SceneEngine.load("scout", precision=request.param, device="cpu")


@pytest.mark.timeout(300)
def test_kept_indices_equal_those_of_a_full_svd_on_features_of_scout(engine, images):
    for number, image in enumerate(images):
        wide = np.ascontiguousarray(image[60:250]) if number % 4 == 0 else image  # padded
        features = engine.features(wide)
        patches = features.patches.float()
        valid = features.valid_indices()
        scores = full_svd_leverage(patches[valid].numpy())
        for budget in BUDGETS:
            chosen = make_selector("svd")(features, Budget(budget)).indices
            wanted = valid[torch.tensor(top(scores, budget))]
            assert torch.equal(chosen, wanted), f"image {number}, {budget} tokens"


def test_a_scene_of_scout_asked_in_any_order_answers_like_a_fresh_one(engine, images):
    questions = ("is there a tree?", "what is the ground?", "how is the sky?", "is the path clear?")
    image = images[0]
    fresh = {q: engine.ask(engine.see(image), q).token_ids for q in questions}
    scene = engine.see(image)
    for order in (questions, questions[::-1]):
        assert {q: engine.ask(scene, q).token_ids for q in order} == fresh
    assert all(fresh.values())
