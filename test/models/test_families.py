# SPDX-License-Identifier: Apache-2.0
"""Every family, by a tiny random model in float32, against transformers' own functions."""

import numpy as np
import pytest
import torch
from family_reference import TINY, images, references

from svd_vlm_ros.bench.answers import image_for
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection import Budget, LayerSelector, VisualFeatures, make_selector
from svd_vlm_ros.selection.relevance import TextRelevance
from svd_vlm_ros.selection.tiles import select_patches

QUESTIONS = ("what is it?", "is the path clear ahead, and how is the sky?")
SELECTORS = ("svd", "svd-cover", "divprune", "grid")
TOKENS = 8
REFERENCES = references()
IMAGES = images()


def load(model_type, **options):
    options = {"precision": "fp32", "device": "cpu", **options}
    return SceneEngine.load(TINY + model_type, **options)


@pytest.fixture(scope="module", params=sorted(REFERENCES))
def model(request):
    """(engine, reference) of a family."""
    engine = load(request.param, selector="none")
    return engine, REFERENCES[request.param](engine.loaded)


@pytest.mark.parametrize("shape", sorted(IMAGES))
def test_images_are_prepared_as_the_checkpoints_own_processor_does(model, shape):
    engine, reference = model
    made = engine.loaded.images(IMAGES[shape], engine.info.aspect)
    wanted = reference.inputs(IMAGES[shape])["pixel_values"]
    assert torch.equal(made.pixels.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("shape", sorted(IMAGES))
@pytest.mark.parametrize("question", QUESTIONS)
def test_none_equals_generate(model, shape, question):
    engine, reference = model
    engine.use_selector("none")
    scene = engine.see(IMAGES[shape])
    wanted = reference.generate(IMAGES[shape], question, TOKENS)
    assert engine.ask(scene, question, max_new_tokens=TOKENS).token_ids == wanted
    assert (
        scene.tokens_kept
        == scene.tokens_total
        == len(reference.features(reference.inputs(IMAGES[shape])))
    )


@pytest.fixture(scope="module", params=["contiguous", "original"])
def placed(request, model):
    engine, _ = model
    engine = load(engine.info.model.removeprefix(TINY), position_policy=request.param)
    return engine, type(model[1])(engine.loaded), request.param == "original"


@pytest.mark.parametrize("budget", [5, 16])
@pytest.mark.parametrize("selector", SELECTORS)
def test_pruned_equals_a_slow_reading(placed, selector, budget):
    engine, reference, original = placed
    engine.use_selector(selector, visual_tokens=budget)
    for shape, question in zip(sorted(IMAGES), (*QUESTIONS, QUESTIONS[0]), strict=True):
        scene = engine.see(IMAGES[shape])
        inputs, framed = reference.inputs(IMAGES[shape]), engine.features(IMAGES[shape])
        features = VisualFeatures(
            reference.features(inputs),
            framed.grid,
            framed.valid,
            projected=reference.projected(inputs),
            tiles=framed.tiles,
            thumbnail=framed.thumbnail,
        )
        kept = select_patches(make_selector(selector), features, Budget(budget)).indices
        assert len(kept) == budget == scene.tokens_kept
        assert scene.selection.indices.tolist() == kept.tolist()
        wanted = reference.pruned(IMAGES[shape], question, kept, original, TOKENS)
        assert engine.ask(scene, question, max_new_tokens=TOKENS).token_ids == wanted


def test_a_scene_is_asked_in_any_order_and_in_one_batch(model):
    engine, _ = model
    engine.use_selector("svd", visual_tokens=12)
    questions = [*QUESTIONS, "describe the scene."]
    fresh = [
        engine.ask(engine.see(IMAGES["wide"]), question, max_new_tokens=TOKENS).token_ids
        for question in questions
    ]
    scene = engine.see(IMAGES["wide"])
    for index in (2, 0, 1, 2):
        answer = engine.ask(scene, questions[index], max_new_tokens=TOKENS)
        assert answer.token_ids == fresh[index]
    for read in (engine.see(IMAGES["wide"]), scene):  # unread, and read before
        together = engine.ask_many(read, questions, max_new_tokens=TOKENS)
        assert [answer.token_ids for answer in together] == fresh


def test_choices_are_those_of_fresh_scenes(model):
    engine, _ = model
    engine.use_selector("svd", visual_tokens=12)
    asked = [(QUESTIONS[0], ("yes", "no, not at all")), (QUESTIONS[1], ("red", "red car", "sky"))]
    together = engine.choose_many(engine.see(IMAGES["tall"]), asked)
    for (question, choices), answer in zip(asked, together, strict=True):
        alone = engine.choose(engine.see(IMAGES["tall"]), question, choices)
        assert alone.text == answer.text
        assert np.allclose(alone.probabilities, answer.probabilities, atol=1e-4)


def test_answers_stream_and_stop(model):
    engine, _ = model
    engine.use_selector("svd", visual_tokens=12)
    scene, texts = engine.see(IMAGES["square"]), []
    whole = engine.ask(scene, QUESTIONS[0], max_new_tokens=TOKENS, on_text=texts.append)
    assert texts[-1] == whole.text
    stopped = engine.ask(
        scene,
        QUESTIONS[0],
        max_new_tokens=TOKENS,
        should_stop=iter(["", "", "cancelled"]).__next__,
    )
    assert stopped.finish_reason == "cancelled"
    assert stopped.token_ids == whole.token_ids[:2]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_language_model_alone_is_quantized(model, precision):
    engine = load(model[0].info.model.removeprefix(TINY), precision=precision, visual_tokens=12)
    for component, (quantized, total) in engine.info.quantized_layers.items():
        assert total > 0
        assert quantized == (total if component == "language_model" else 0)
    layers = engine.loaded.model.config.get_text_config().num_hidden_layers
    assert engine.info.quantized_layers["language_model"][1] == 7 * layers
    scene = engine.see(IMAGES["wide"])
    answer = engine.ask(scene, QUESTIONS[0], max_new_tokens=TOKENS)
    assert answer.answer_tokens > 0
    assert answer.confidence > 0.0


def test_boxes_of_kept_tokens_lie_in_the_image(model):
    engine, _ = model
    engine.use_selector("svd", visual_tokens=12)
    for image in IMAGES.values():
        scene = engine.see(image)
        for index in scene.selection.indices.tolist():
            x0, y0, x1, y1 = scene.patch_box(index)
            assert 0 <= x0 < x1 <= image.shape[1]
            assert 0 <= y0 < y1 <= image.shape[0]


def test_every_selector_works_or_is_refused_with_those_that_do(model):
    engine, _ = model
    for selector in engine.info.selectors:
        relevant = isinstance(make_selector(selector), TextRelevance)
        options = {"relevance": "words"} if relevant else {}
        engine.use_selector(selector, visual_tokens=20, **options)
        scene = engine.see(IMAGES["wide"])
        answer = engine.ask(scene, QUESTIONS[0], max_new_tokens=2)
        layers = len(answer.layer_tokens)
        if isinstance(make_selector(selector), LayerSelector):  # the budget is what layers average
            assert answer.layer_tokens[0] == scene.tokens_total
            assert 19 < sum(answer.layer_tokens) / layers <= 20
        else:
            read = scene.tokens_total if selector == "none" else 20
            assert answer.layer_tokens == (read,) * layers
    refused = {"tome", "fastv"} - set(engine.info.selectors)
    for selector in refused:
        with pytest.raises(UserError, match=r"encoder|inside .* take one of svd"):
            engine.use_selector(selector)


def test_a_typical_image_has_the_tokens_that_are_told(model, monkeypatch):
    engine, _ = model
    height, width = engine.info.typical_image
    assert (height, width) == (
        (480, 640) if engine.info.grid is None else (engine.info.image_size,) * 2
    )
    shown = []
    see = engine.see
    monkeypatch.setattr(engine, "see", lambda image: shown.append(see(image)) or shown[-1])
    engine.warm_up()
    (scene,) = shown
    assert scene.image_shape == (height, width, 3)
    assert scene.tokens_total == engine.info.visual_tokens_total
    assert image_for(engine, "").shape == scene.image_shape


def test_special_tokens_in_a_question_are_text(model):
    engine, _ = model
    special = engine.loaded.family.special_tokens
    ids = engine.loaded.prompt(None).after(f"what does {' '.join(special)} mean?")
    assert engine.loaded.model.config.image_token_id not in ids
    plain = engine.loaded.prompt(None).after("what does it mean?")
    known = set(engine.loaded.tokenizer.convert_tokens_to_ids(list(special)))
    assert [i for i in ids if i in known] == [i for i in plain if i in known]


def test_stock_is_asked_what_the_engine_is_asked(model):
    """What `bench` compares with: `generate` on these inputs writes what `none` writes."""
    engine, _ = model
    engine.use_selector("none")
    inputs = engine.loaded.stock_inputs(IMAGES["wide"], QUESTIONS[1])
    ends = sorted(engine.loaded.end_token_ids)
    asked = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": ends}
    written = engine.loaded.model.generate(**inputs, **asked)[0, inputs["input_ids"].shape[1] :]
    answer = engine.ask(engine.see(IMAGES["wide"]), QUESTIONS[1], max_new_tokens=TOKENS)
    assert written[: answer.answer_tokens].tolist() == list(answer.token_ids)
    assert inputs["input_ids"].shape[1] == answer.prompt_tokens
