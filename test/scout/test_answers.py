# SPDX-License-Identifier: Apache-2.0
"""Scout as it ships: it loads like any LLaVA, and answers about scenes that it never saw.

The full table is `python -m svd_vlm_ros.scout.evaluate` (docs/scout.md); this is a sample of it.
"""

import pytest

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.scout.architecture import MODEL_FOLDER, config
from svd_vlm_ros.scout.evaluate import evaluate, same_answer, table
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene

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


def test_it_answers_about_unseen_scenes(engine):
    (cell,) = evaluate(engine, [576], SCENES)
    assert sum(cell.asked.values()) > 130
    assert cell.accuracy > 0.8
    assert f"{100 * cell.accuracy:.1f}" in table([cell])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_weights_answer_alike(engine, precision):
    quantized = SceneEngine.load("scout", precision=precision, visual_tokens=576)
    full = evaluate(engine, [576], SCENES[:6])[0]
    cell = evaluate(quantized, [576], SCENES[:6])[0]
    quantized.close()
    assert sum(cell.right.values()) >= 0.9 * sum(full.right.values())


@pytest.mark.parametrize(
    "wording", ["What is the ground?", "what is the ground", "WHAT IS THE GROUND?"]
)
def test_capitals_and_marks_do_not_matter(engine, wording):
    for scene in SCENES[:3]:
        seen = engine.see(render(scene))
        assert same_answer(engine.ask(seen, wording).text, scene.ground)
