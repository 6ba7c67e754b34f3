# SPDX-License-Identifier: Apache-2.0
"""A second family runs on the engine and the selectors, which know nothing of it.

That it runs on the node is in test/node/test_second_family.py.
"""

import numpy as np
import pytest
import torch
from toy_family import COLUMNS, PATCH, ROWS, ToyFamily, make_toy

from svd_vlm_ros import models
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models import registry
from svd_vlm_ros.selection import Budget, make_selector

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
QUESTIONS = ("is the path clear?", "what is the ground?", "how is the sky?")
CHOICES = ("yes", "no", "a red car")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    models.register(ToyFamily())
    yield make_toy(tmp_path_factory.mktemp("toy"))
    del registry._families["toy"]


@pytest.fixture(scope="module")
def engine(folder):
    return SceneEngine.load(str(folder), precision="fp32", device="cpu", visual_tokens=6)


def by_hand(engine, kept, text, answer=()):
    """The logits behind a question and an answer, by transformers alone: rows and positions."""
    loaded = engine.loaded
    prompt = loaded.prompt(None)
    ids = [prompt.before, (*prompt.after(text), *answer)]
    embed = loaded.model.text.get_input_embeddings()
    before, after = (embed(torch.tensor(part)) for part in ids)
    patches = loaded.encoder()(loaded.images(IMAGE, "pad")).patches[kept]
    start = len(before)
    positions = [
        *range(start),
        *(start + patch // COLUMNS for patch in kept.tolist()),
        *range(start + ROWS, start + ROWS + len(after)),
    ]
    rows = torch.cat([before, loaded.model.connect(patches), after])[None]
    mask = torch.ones(1, len(positions), dtype=torch.int64)
    place = torch.tensor(positions)[None]
    return loaded.model.text(inputs_embeds=rows, attention_mask=mask, position_ids=place).logits[0]


@torch.inference_mode()
def greedy_by_hand(engine, kept, text, count):
    tokens = []
    while len(tokens) < count:
        token = int(by_hand(engine, kept, text, tokens)[-1].argmax())
        if token in engine.loaded.end_token_ids:
            break
        tokens.append(token)
    return tuple(tokens)


@pytest.mark.parametrize("selector", ["svd-cover", "svd", "divprune", "grid", "none"])
def test_answers_equal_those_of_transformers_by_hand(engine, selector):
    engine.use_selector(selector, visual_tokens=6)
    scene = engine.see(IMAGE)
    assert (scene.tokens_total, scene.grid) == (15, (ROWS, COLUMNS))
    assert scene.tokens_kept == (15 if selector == "none" else 6)
    wanted = make_selector(selector)(engine.features(IMAGE), Budget(6)).indices
    assert torch.equal(scene.selection.indices, wanted)
    first = [engine.ask(scene, question, max_new_tokens=8) for question in QUESTIONS]
    together = engine.ask_many(engine.see(IMAGE), QUESTIONS, max_new_tokens=8)
    for question, one, other in zip(QUESTIONS, first, together, strict=True):
        assert one.token_ids == greedy_by_hand(engine, wanted, question, 8)
        assert other.token_ids == one.token_ids
    assert len({answer.token_ids for answer in first}) > 1
    described = engine.describe(scene, max_new_tokens=8)
    assert described.token_ids == greedy_by_hand(engine, wanted, "Describe the scene.", 8)


@torch.inference_mode()
def test_choices_equal_those_of_transformers_by_hand(engine):
    engine.use_selector("svd-cover", visual_tokens=6)
    asked = [(question, CHOICES) for question in QUESTIONS]
    together = engine.choose_many(engine.see(IMAGE), asked)
    scene = engine.see(IMAGE)
    end = min(engine.loaded.end_token_ids)
    for question, other in zip(QUESTIONS, together, strict=True):
        scores = []
        for choice in CHOICES:
            ids = [*engine.loaded.prompt(None).answer(question, choice), end]
            logits = by_hand(engine, scene.selection.indices, question, ids)[-len(ids) - 1 : -1]
            scores.append(float(logits.log_softmax(1)[range(len(ids)), ids].sum()))
        wanted = torch.tensor(scores).softmax(0).tolist()
        one = engine.choose(scene, question, CHOICES)
        assert one.probabilities == pytest.approx(wanted, rel=1e-4)
        assert other.probabilities == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["mmtok", "trim", "fastv", "pyramiddrop"])
def test_selectors_that_look_at_the_question(engine, name):
    options = {"relevance": "words"} if name == "trim" else {}
    engine.use_selector(name, visual_tokens=9, **options)
    scene = engine.see(IMAGE)
    alone = [engine.ask(scene, question, max_new_tokens=4) for question in QUESTIONS]
    together = engine.ask_many(scene, QUESTIONS, max_new_tokens=4)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    for question, answer in zip(QUESTIONS, alone, strict=True):
        assert len(answer.selection) <= 15
        if name == "mmtok":
            kept = answer.selection.indices
            assert answer.token_ids == greedy_by_hand(engine, kept, question, 4)
    chosen = engine.choose(scene, QUESTIONS[0], CHOICES)
    assert sum(chosen.probabilities) == pytest.approx(1.0)


def test_what_the_family_can_not_do_is_said(engine, folder):
    for name in ("visionzip", "tome"):
        with pytest.raises(UserError, match=f"'{name}' needs .* of the vision encoder"):
            engine.use_selector(name)
    with pytest.raises(UserError, match="by words"):
        engine.use_selector("trim")
    with pytest.raises(UserError, match="knows no aspect 'crop'"):
        SceneEngine.load(str(folder), precision="fp32", device="cpu", aspect="crop")


def test_a_typical_image_has_the_shape_of_the_grid(engine):
    assert engine.info.typical_image == (ROWS * PATCH, COLUMNS * PATCH)
    assert engine.warm_up() > 0


def test_its_special_tokens_are_only_text(engine):
    engine.use_selector("svd", visual_tokens=6)
    for text in ("<photo>", "look at </s>"):
        ids = engine.loaded.prompt(text).after(f"what is {text}?")
        assert set(engine.loaded.tokenizer.all_special_ids).isdisjoint(ids)
    assert "[be brief] <photo> ask: why? say:" in engine.loaded.prompt("be brief").text("why?")
