# SPDX-License-Identifier: Apache-2.0
"""Gemma 3: 256 tokens for every image, its prompt, its windows and masks, checkpoints."""

import json

import numpy as np
import pytest
import torch
from families.reference_gemma3 import Gemma3
from PIL import Image

from svd_vlm_ros import models
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.gemma3 import FAMILY
from svd_vlm_ros.models.interface import ModelOptions
from svd_vlm_ros.models.language.stock import PlacedWorkspace, StockDecoder
from svd_vlm_ros.selection import Selection

FULL, TINY = "random:gemma-3-4b", "random:tiny-gemma3"
LONG = "is the path clear ahead, and how is the sky over the trees on the left of the red car?"


def images(folder=None, name=FULL):
    return FAMILY.image_processor(folder, FAMILY.random_config(name), ModelOptions())


def noise(height, width):
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (1080, 1920), (896, 896)])
def test_the_published_number_of_tokens(shape):
    made = images()(noise(*shape), "pad")
    assert made.pixels.shape == (1, 3, 896, 896)
    assert made.framing.grid == images().grid == (16, 16)
    assert images().tokens == 256
    height, width = shape
    assert made.framing.patch_box(17) == (width / 16, height / 16, width / 8, height / 8)
    assert made.framing.patch_box(255)[2:] == (width, height)
    assert made.framing.valid() is None


@pytest.mark.parametrize("shape", [(50, 1), (1, 50), (1, 1), (3, 100), (100, 3), (3, 3), (1, 3)])
def test_images_of_odd_shapes(shape):
    image = noise(*shape)
    # Pillow's images say themselves where their channels are.
    wanted = images().processor(images=Image.fromarray(image), return_tensors="pt")
    assert torch.equal(images()(image, "pad").pixels, wanted["pixel_values"])


def settings(folder, **changed):
    """What Gemma 3's preprocessor_config.json says."""
    said = {
        "do_convert_rgb": None,
        "do_pan_and_scan": None,
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
        "size": {"height": 896, "width": 896},
        **changed,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def test_the_settings_are_the_checkpoints_but_for_pan_and_scan(tmp_path):
    image, made = noise(300, 900), images()
    said = {"do_pan_and_scan": True, "pan_and_scan_max_num_crops": 4}
    said |= {"pan_and_scan_min_crop_size": 256, "pan_and_scan_min_ratio_to_activate": 1.2}
    for changed in ({}, said):
        read = images(settings(tmp_path, **changed))
        assert torch.equal(read(image, "pad").pixels, made(image, "pad").pixels)
    read = images(settings(tmp_path, resample=3))
    assert not torch.equal(read(image, "pad").pixels, made(image, "pad").pixels)


def test_images_of_another_size_than_the_encoders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"448 x 448 .* wants 896 x 896"):
        images(settings(tmp_path, size={"height": 448, "width": 448}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ({"model_type": "gemma2"}, "with the language model 'gemma2'"),
        ({"use_bidirectional_attention": True}, "has use_bidirectional_attention"),
        ({"attn_logit_softcapping": 50.0}, "has attn_logit_softcapping"),
    ],
)
def test_a_configuration_that_can_not_run_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(UserError, match=sentence):
        FAMILY.check("some/model", {"text_config": text})
    FAMILY.check("some/model", {"text_config": {"model_type": "gemma3_text"}})


def test_bounds_of_pixels_are_refused():
    with pytest.raises(UserError, match="images of one size"):
        models.load(TINY, precision="fp32", device="cpu", options=ModelOptions(max_pixels=10**6))


def test_sizes_are_those_of_the_models_weights():
    assert FAMILY.sizes(FULL).weights == pytest.approx(4.3e9, rel=0.02)  # as published


@pytest.fixture(scope="module")
def engine():
    return SceneEngine.load(TINY, precision="fp32", device="cpu", selector="none")


def test_the_prompt_is_that_of_the_published_template(engine):
    prompt = engine.loaded.prompt("be brief")
    first = engine.loaded.tokenizer.bos_token
    assert prompt.text(" what is it? ") == (
        f"{first}<start_of_turn>user\nbe brief\n\n\n\n<start_of_image><image_soft_token>"
        "<end_of_image>\n\nwhat is it?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert prompt.before.count(engine.loaded.tokenizer.bos_token_id) == 1


def test_random_weights_project_images_and_follow_the_seed():
    matrices = [
        models.load(
            TINY, precision="fp32", device="cpu", seed=seed
        ).model.model.multi_modal_projector.mm_input_projection_weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(matrices[0], matrices[1])
    assert not torch.equal(matrices[0], matrices[2])
    assert float(matrices[0].std()) == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("question", ["what is it?", LONG])
def test_probabilities_of_texts_are_those_of_one_stock_pass(engine, question):
    """To the digits: a window or a mask that is off by one token moves them."""
    loaded, image, texts = engine.loaded, noise(90, 210), [[5, 9, 40], [77], [8, 8]]
    reference, language = Gemma3(loaded), engine.loaded.language_model()
    inputs = reference.inputs(image)
    ids = reference.ids(inputs, question)
    with torch.inference_mode():
        features = engine.features(image)
        everything = Selection(torch.arange(len(features)), torch.ones(len(features)))
        visual = loaded.connector()(features, everything)
        prompt = loaded.prompt(None)
        system = language.prefill(language.embed(prompt.before))
        prefix = language.extend(system, visual)
        asked = [(language.embed(prompt.after(text)), texts) for text in (question, "why so?")]
        found = language.score(prefix, asked)[0]
        again = language.score(prefix, asked[:1])[0]  # behind what was read before
        wanted = []
        for text in texts:
            row = torch.tensor([[*ids, *text]])
            logits = loaded.model(input_ids=row, **inputs, **reference.extra(row)).logits[0]
            logs = logits[len(ids) - 1 : -1].float().log_softmax(dim=1)
            wanted.append(float(logs[range(len(text)), text].sum()))
    assert found == pytest.approx(wanted, abs=1e-4)
    assert again == pytest.approx(wanted, abs=1e-4)


def test_windows_shorter_than_system_prompt_and_question(engine):
    window = engine.loaded.model.config.text_config.sliding_window
    brief = SceneEngine.load(
        TINY, precision="fp32", device="cpu", visual_tokens=7, system_prompt=LONG + LONG
    )
    assert len(brief.loaded.prompt(LONG + LONG).before) > 2 * window
    questions, image = [LONG, "what is it?", LONG + " why?"], noise(90, 210)
    fresh = [
        brief.ask(brief.see(image), question, max_new_tokens=8).token_ids for question in questions
    ]
    scene = brief.see(image)
    together = brief.ask_many(scene, questions, max_new_tokens=8)
    assert [answer.token_ids for answer in together] == fresh
    for index in (2, 0, 1):
        answer = brief.ask(scene, questions[index], max_new_tokens=8)
        assert answer.token_ids == fresh[index]


def test_a_workspace_with_places_follows_its_prefix(engine):
    decoder = engine.loaded.language_model().decoder
    assert isinstance(decoder, StockDecoder)
    language = engine.loaded.language_model()
    system = language.prefill(language.embed([5, 6, 7]))
    assert system.places.tolist() == [0, 1, 2]
    cache = decoder.workspace()
    assert isinstance(cache, PlacedWorkspace)
    cache.begin(system, 10)
    assert cache.places.tolist() == [0, 1, 2]
    cache.begin(None, 10)
    assert cache.places.tolist() == []


def test_a_checkpoint_equals_generate(tmp_path):
    loaded = models.load(TINY, precision="fp32", device="cpu")
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    settings(tmp_path, size={"height": 48, "width": 48})
    (tmp_path / "chat_template.jinja").write_text(FAMILY.chat_template)
    engine = SceneEngine.load(str(tmp_path), precision="fp32", device="cpu", selector="none")
    image = noise(100, 60)
    wanted = Gemma3(engine.loaded).generate(image, LONG, 8)
    assert engine.ask(engine.see(image), LONG, max_new_tokens=8).token_ids == wanted


def test_what_generate_takes_is_what_the_published_processor_makes(engine):
    reference, image = Gemma3(engine.loaded), noise(100, 130)
    made = engine.loaded.stock_inputs(image, "what is it?")
    inputs = reference.inputs(image)
    ids = torch.tensor([reference.ids(inputs, "what is it?")])
    wanted = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **inputs}
    wanted |= reference.extra(ids)
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[key], wanted[key]) for key in wanted)
