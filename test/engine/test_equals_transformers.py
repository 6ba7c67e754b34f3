# SPDX-License-Identifier: Apache-2.0
"""With the selector `none` the engine writes what transformers' own `generate` writes; with
another, what `generate` writes when it is given the kept tokens.
"""

import numpy as np
import pytest
import torch
from checkpoints import MEAN, load_stock
from transformers import AutoProcessor

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.models.files import scout_folder
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene

QUESTIONS = (
    "is the path clear?",
    "What colour is the car on the left, and what stands behind it?",
    "describe the scene.",
)
TOKENS = 24


def make_images():
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (90, 160, 3), dtype=np.uint8)
    smooth = np.linspace(0, 255, 120 * 100 * 3).reshape(120, 100, 3).astype(np.uint8)
    return noise, smooth


def stock_answer(model, processor, image, question):
    """The new tokens of `generate` on the processor's inputs, without the end token."""
    prompt = f"USER: <image>\n{question} ASSISTANT:"
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    written = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)[0]
    return _until_end(written[inputs["input_ids"].shape[1] :], model)


def stock_answer_from_embeddings(model, rows):
    """The tokens that `generate` writes behind given embeddings [n, hidden]."""
    written = model.generate(
        inputs_embeds=rows[None],
        attention_mask=torch.ones(1, len(rows), dtype=torch.int64),
        do_sample=False,
        max_new_tokens=TOKENS,
    )[0]
    return _until_end(written, model)


def _until_end(ids, model):
    ids = ids.tolist()
    end = model.generation_config.eos_token_id
    return tuple(ids[: ids.index(end)] if end in ids else ids)


def check_none(folder, model_name, images):
    stock = load_stock(folder)
    processor = AutoProcessor.from_pretrained(folder)
    engine = SceneEngine.load(
        model_name, precision="fp32", selector="none", aspect="crop", device="cpu"
    )
    answers = set()
    for image in images:
        scene = engine.see(image)
        assert scene.tokens_kept == scene.tokens_total
        for question in QUESTIONS:
            answer = engine.ask(scene, question, max_new_tokens=TOKENS)
            assert answer.token_ids == stock_answer(stock, processor, image, question)
            answers.add(answer.token_ids)
    return answers


def test_none_equals_generate(checkpoint):
    answers = check_none(checkpoint, str(checkpoint), make_images())
    assert len(answers) >= 4  # of 6: even a random model looks at image and question


def test_none_equals_generate_with_scout():
    scenes = [render(sample_scene(seed)) for seed in HELD_OUT_SEEDS[:2]]
    check_none(scout_folder(), "scout", [*scenes, make_images()[0]])


def test_none_equals_generate_with_padding_and_system_prompt(small_checkpoint):
    stock = load_stock(small_checkpoint)
    processor = AutoProcessor.from_pretrained(small_checkpoint)
    engine = SceneEngine.load(
        str(small_checkpoint),
        precision="fp32",
        selector="none",
        system_prompt="where is the nearest cone?",
        device="cpu",
    )
    image = make_images()[0]
    answer = engine.ask(engine.see(image), QUESTIONS[0], max_new_tokens=TOKENS)
    side = max(image.shape)
    colour = [int(255 * channel) for channel in MEAN]
    square = np.full((side, side, 3), colour, np.uint8)
    square[35:125] = image
    prompt = f"where is the nearest cone? USER: <image>\n{QUESTIONS[0]} ASSISTANT:"
    inputs = processor(images=square, text=prompt, return_tensors="pt")
    written = stock.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)[0]
    assert answer.token_ids == _until_end(written[inputs["input_ids"].shape[1] :], stock)


@pytest.mark.parametrize("selector", ["svd", "grid"])
def test_kept_tokens_equal_generate_from_the_same_embeddings(checkpoint, selector):
    stock = load_stock(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    engine = SceneEngine.load(
        str(checkpoint), precision="fp32", selector=selector, visual_tokens=16, aspect="crop"
    )
    for image in make_images():
        scene = engine.see(image)
        assert scene.tokens_kept == 16
        for question in QUESTIONS:
            prompt = f"USER: <image>\n{question} ASSISTANT:"
            inputs = processor(images=image, text=prompt, return_tensors="pt")
            with torch.inference_mode():
                visual = stock.get_image_features(inputs["pixel_values"]).pooler_output[0]
                words = stock.get_input_embeddings()(inputs["input_ids"][0])
                is_image = inputs["input_ids"][0] == stock.config.image_token_index
                start = int(is_image.nonzero()[0])
                kept = visual[scene.selection.indices]
                rows = torch.cat([words[:start], kept, words[start + int(is_image.sum()) :]])
            answer = engine.ask(scene, question, max_new_tokens=TOKENS)
            assert answer.token_ids == stock_answer_from_embeddings(stock, rows)
            assert answer.prompt_tokens == len(rows)


def test_the_features_are_those_that_transformers_projects(checkpoint):
    stock = load_stock(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    engine = SceneEngine.load(str(checkpoint), precision="fp32", aspect="crop")
    for image in make_images():
        pixels = processor(images=image, text="<image>", return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            states = stock.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        assert torch.equal(engine.features(image).patches, states[-2][0, 1:])
