# SPDX-License-Identifier: Apache-2.0
"""Selectors that look at the question: the engine knows that their scenes can't be shared."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection import Budget, looks_at_question, make_selector, selector_names

# The options that a model without CLIP's text tower can serve.
WORDS = {"relevance": "words"}
ASKING = {"mmtok": {}, "trim": WORDS, "cdpruner": WORDS}
QUESTIONS = ("is the path clear?", "What colour is the car on the left, and what stands behind it?")
ASKED = [(question, ("yes", "no")) for question in QUESTIONS]
generator = np.random.default_rng(0)
WIDE = generator.integers(0, 256, (90, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine(small_checkpoint):
    return SceneEngine.load(str(small_checkpoint), precision="fp32", visual_tokens=16, device="cpu")


def test_who_looks_at_the_question():
    options = {name: dict(ASKING.get(name, {})) for name in selector_names("before")}
    made = {name: make_selector(name, **given) for name, given in options.items()}
    assert {name for name, one in made.items() if looks_at_question(one)} == set(ASKING)


@pytest.mark.parametrize("name", ["svd", "mmtok", "fastv"])
def test_the_first_scene_books_the_prefill_of_the_system_prompt(engine, name):
    """Under its own field, whatever the kind of selector; all others have nothing to read."""
    engine.use_selector(name, visual_tokens=40)
    prefill = engine._language.prefill
    engine._language.prefill = lambda tokens: (time.sleep(0.3), prefill(tokens))[1]
    try:
        engine.use_system_prompt(None)
        first, second = engine.see(WIDE), engine.see(WIDE)
    finally:
        engine._language.prefill = prefill
        engine.use_selector("svd", visual_tokens=16)
    assert first.timings.prefill > 0.3 > first.timings.project
    assert second.timings.prefill == 0.0


@pytest.mark.parametrize("name", list(ASKING))
def test_each_question_chooses_for_itself(engine, name):
    engine.use_selector(name, **ASKING[name])
    assert not engine.info.shareable
    scene = engine.see(WIDE)
    assert not scene.shareable
    assert scene.prefix is None
    assert scene.selection is None
    assert scene.timings.select == 0.0
    answers = engine.ask_many(scene, QUESTIONS, max_new_tokens=8)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        assert answer.timings.select > 0.0 < answer.timings.project
        assert len(answer.selection) == scene.tokens_kept == 16
        assert answer.layer_tokens == (16,) * engine._language.layers
        # what a selector is to get, put together here
        embed = engine.loaded.model.get_input_embeddings()
        tokenizer = engine.loaded.tokenizer
        ids = tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        with torch.inference_mode():
            selector = engine.selector
            features = engine.features(WIDE)
            features = replace(features, question=embed(ids))
            if engine._chosen.compare is not None:
                common = engine._chosen.compare(features, question, embed(ids))
                features = replace(features, image_text=common)
            wanted = selector(features, Budget(16))
            assert torch.equal(answer.selection.indices, wanted.indices)
            tokens = engine._scenes.connector(features, wanted).rows
            before = engine._language.embed(engine._prompt.before).rows
            text = engine._language.embed(engine._prompt.after(question)).rows
            rows = torch.cat([before, tokens, text])
            written = engine.loaded.model.generate(
                inputs_embeds=rows[None],
                attention_mask=torch.ones(1, len(rows), dtype=torch.int64),
                do_sample=False,
                max_new_tokens=8,
            )[0].tolist()
        assert answer.token_ids == tuple(written[: answer.answer_tokens])
        assert answer.prompt_tokens == len(rows)
    kept = [answer.selection.indices.tolist() for answer in answers]
    assert kept[0] != kept[1]


@pytest.mark.parametrize("name", list(ASKING))
def test_one_by_one_and_together_agree(engine, name):
    engine.use_selector(name, **ASKING[name])
    scene = engine.see(WIDE)
    together = engine.ask_many(scene, QUESTIONS, max_new_tokens=(8, 3))
    alone = [engine.ask(scene, q, max_new_tokens=8) for q in QUESTIONS]
    assert together[0].token_ids == alone[0].token_ids
    assert together[1].token_ids == alone[1].token_ids[:3]
    chosen = engine.choose_many(scene, ASKED)
    for asked, one in zip(ASKED, chosen, strict=True):
        assert engine.choose(scene, *asked).probabilities == pytest.approx(one.probabilities)
        assert len(one.selection) == 16
    stopped = engine.ask(scene, QUESTIONS[0], should_stop=lambda: "canceled")
    assert (stopped.finish_reason, stopped.selection) == ("canceled", None)
    with pytest.raises(UserError, match="beside the image"):
        engine.ask(scene, "why? " * 1000)


def test_clip_that_is_not_there_is_named_before_anything_changes(engine):
    engine.use_selector("svd")
    with pytest.raises(UserError, match="svd-vlm download"):
        engine.use_selector("trim", clip="nobody/clip")
    assert engine.info.selector == "svd"
    assert engine.info.shareable


def test_scenes_outlive_a_change_of_selector(engine):
    engine.use_selector("svd")
    shared = engine.see(WIDE)
    wanted = engine.ask(shared, QUESTIONS[0], max_new_tokens=8).token_ids
    engine.use_selector("mmtok", visual_tokens=8)
    own = engine.see(WIDE)
    first = engine.ask(own, QUESTIONS[0], max_new_tokens=8)
    engine.use_selector("grid", visual_tokens=12)
    assert engine.see(WIDE).tokens_kept == 12
    assert engine.ask(shared, QUESTIONS[0], max_new_tokens=8).token_ids == wanted
    again = engine.ask(own, QUESTIONS[0], max_new_tokens=8)
    assert again.token_ids == first.token_ids
    assert torch.equal(again.selection.indices, first.selection.indices)
    engine.use_selector("svd", visual_tokens=16)
    assert engine.ask(engine.see(WIDE), QUESTIONS[0], max_new_tokens=8).token_ids == wanted


@pytest.mark.parametrize("name", selector_names())
def test_features_computed_before_make_the_same_scene(engine, name):
    engine.use_selector(
        name, visual_tokens=40 if name in selector_names("inside") else 16, **ASKING.get(name, {})
    )
    features = engine.features(WIDE)
    given = engine.see_features(features, engine.framing(WIDE), WIDE.shape)
    seen = engine.see(WIDE)
    assert (given.tokens_kept, given.shareable) == (seen.tokens_kept, seen.shareable)
    assert given.patch_box(24) == seen.patch_box(24)
    one, other = (engine.ask(scene, QUESTIONS[0], max_new_tokens=6) for scene in (given, seen))
    assert one.token_ids == other.token_ids
    assert one.layer_tokens == other.layer_tokens
    assert (given.timings.preprocess, given.timings.encode) == (0.0, 0.0)
    fewer = 35 if name in selector_names("inside") else 5
    kept = engine.see_features(features, engine.framing(WIDE), WIDE.shape, visual_tokens=fewer)
    assert kept.tokens_kept < seen.tokens_kept or name == "none"
    engine.use_selector("svd", visual_tokens=16)


@pytest.mark.parametrize("name", ["svd", "mmtok", "fastv"])
def test_a_system_prompt_is_changed_while_scenes_live(engine, small_checkpoint, name):
    tokens = 300 if name == "fastv" else 16  # FastV keeps all of them in its first layers
    engine.use_selector(name, visual_tokens=tokens)
    plain = engine.see(WIDE)
    before = engine.ask(plain, QUESTIONS[0], max_new_tokens=8)
    engine.use_system_prompt(" be brief and kind. ")
    assert engine.info.system_prompt == "be brief and kind."
    prompted = engine.ask(engine.see(WIDE), QUESTIONS[0], max_new_tokens=8)
    wanted = SceneEngine.load(
        str(small_checkpoint),
        precision="fp32",
        selector=name,
        visual_tokens=tokens,
        device="cpu",
        system_prompt="be brief and kind.",
    )
    fresh = wanted.ask(wanted.see(WIDE), QUESTIONS[0], max_new_tokens=8)
    assert prompted.token_ids == fresh.token_ids
    assert prompted.confidence == pytest.approx(fresh.confidence, rel=1e-5)
    assert prompted.prompt_tokens == fresh.prompt_tokens > before.prompt_tokens
    again = engine.ask(plain, QUESTIONS[0], max_new_tokens=8)
    assert again.token_ids == before.token_ids
    assert again.confidence == pytest.approx(before.confidence, rel=1e-5)
    assert again.prompt_tokens == before.prompt_tokens, "the scene keeps what it was made with"
    for text, sentence in (("\x07", "control character"), ("kind " * 3000, "shorten it")):
        with pytest.raises(UserError, match=sentence):
            engine.use_system_prompt(text)
        assert engine.info.system_prompt == "be brief and kind."
    engine.use_system_prompt(None)
    assert engine.info.system_prompt is None
    assert engine.ask(engine.see(WIDE), QUESTIONS[0], max_new_tokens=8).confidence == (
        pytest.approx(before.confidence, rel=1e-5)
    )
