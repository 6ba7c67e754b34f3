# SPDX-License-Identifier: Apache-2.0
"""Scout as it ships: it loads like any LLaVA, and answers about scenes that it never saw.

The full table is made by `svd-vlm eval --task scout` (docs/scout.md); this is a sample of it.
"""

from collections.abc import Iterable

import pytest

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.evaluation.held_out import MAX_NEW_TOKENS, one_of_each, same_answer
from svd_vlm_ros.scout.architecture import MODEL_FOLDER, config
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, WorldScene, sample_scene

SCENES = [sample_scene(HELD_OUT_SEEDS[90_000 + i]) for i in range(16)]


@pytest.fixture(scope="module")
def engine():
    made = SceneEngine.load("scout", precision="bf16", visual_tokens=576)
    yield made
    made.close()


def test_the_files_are_those_of_any_llava():
    from transformers import AutoConfig

    assert (MODEL_FOLDER / "model.safetensors").stat().st_size < 20 * 2**20
    assert not list(MODEL_FOLDER.glob("*.bin")) + list(MODEL_FOLDER.glob("*.py"))
    shipped = AutoConfig.from_pretrained(MODEL_FOLDER)
    assert shipped.model_type == "llava"
    for part in ("vision_config", "text_config"):
        made = getattr(config(), part).to_dict()
        there = getattr(shipped, part).to_dict()
        sizes = [k for k in made if "size" in k or "num" in k]
        assert {k: made[k] for k in sizes} == {k: there[k] for k in sizes}


def exact(engine: SceneEngine, scenes: Iterable[WorldScene]) -> list[bool]:
    """Whether each answer is exactly the true one, over one question of each kind a scene."""
    found = []
    for scene in scenes:
        asked = one_of_each(scene)
        answers = engine.ask_many(
            engine.see(render(scene)), [q.text for q in asked], max_new_tokens=MAX_NEW_TOKENS
        )
        found += [same_answer(a.text, q.answer) for a, q in zip(answers, asked, strict=True)]
    return found


def test_it_answers_about_unseen_scenes(engine):
    found = exact(engine, SCENES)
    assert len(found) > 130
    assert sum(found) > 0.9 * len(found)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_weights_answer_alike(engine, precision):
    quantized = SceneEngine.load("scout", precision=precision, visual_tokens=576)
    right = sum(exact(quantized, SCENES[:6]))
    quantized.close()
    assert right >= 0.9 * sum(exact(engine, SCENES[:6]))


@pytest.mark.parametrize(
    "wording", ["What is the ground?", "what is the ground", "WHAT IS THE GROUND?"]
)
def test_capitals_and_marks_do_not_matter(engine, wording):
    for scene in SCENES[:3]:
        seen = engine.see(render(scene))
        assert same_answer(engine.ask(seen, wording).text, scene.ground)
