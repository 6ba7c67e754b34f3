# SPDX-License-Identifier: Apache-2.0
"""Several questions at once, and every other way to the same tokens: each gives those of `ask`."""

import numpy as np
import pytest
import torch

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.language.writer import Writer
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene

QUESTIONS = (
    "is the path clear?",
    "What colour is the car on the left, and what stands behind it?",
    "2",
    "how many people are there?",
)
ASKED = (
    ("is the path clear?", ("yes", "no")),
    ("what colour is the car?", ("red", "a red one", "2", "blue")),
    ("how many people are there, and where is the nearest cone?", ("none", "2 of them")),
)
generator = np.random.default_rng(0)
WIDE = generator.integers(0, 256, (90, 160, 3), dtype=np.uint8)
TALL = generator.integers(0, 256, (70, 40, 3), dtype=np.uint8)
LENGTH = 16


@pytest.fixture(scope="module")
def engine(checkpoint):
    return SceneEngine.load(str(checkpoint), precision="fp32", visual_tokens=16, device="cpu")


@pytest.fixture(scope="module")
def scene(engine):
    return engine.see(WIDE)


@pytest.fixture(scope="module")
def alone(engine, scene):
    return [engine.ask(scene, question, max_new_tokens=LENGTH) for question in QUESTIONS]


def test_many_questions_are_answered_like_each_alone(engine, scene, alone):
    together = engine.ask_many(scene, QUESTIONS, max_new_tokens=LENGTH)
    for one, other in zip(alone, together, strict=True):
        assert other.token_ids == one.token_ids
        assert (other.text, other.finish_reason) == (one.text, one.finish_reason)
        assert other.prompt_tokens == one.prompt_tokens
        assert other.confidence == pytest.approx(one.confidence, rel=1e-4)
        assert other.layer_tokens == one.layer_tokens == (16,) * engine._language.layers
        assert other.selection is scene.selection
    turned = engine.ask_many(scene, QUESTIONS[::-1], max_new_tokens=LENGTH)
    assert [answer.token_ids for answer in turned[::-1]] == [one.token_ids for one in alone]
    same = engine.ask_many(scene, [QUESTIONS[0]] * 3, max_new_tokens=LENGTH)
    assert {answer.token_ids for answer in same} == {alone[0].token_ids}
    assert engine.ask_many(scene, []) == []


def test_each_answer_has_its_own_length_end_and_stop(engine, scene, alone):
    limits, stops, texts = (3, 16, 1, 9), (None, 5, None, 0), {}
    asked = [0] * len(QUESTIONS)

    def should_stop(index):
        asked[index] += 1
        return "canceled" if stops[index] is not None and asked[index] > stops[index] else None

    def on_text(index, text):
        texts.setdefault(index, []).append(text)

    answers = engine.ask_many(
        scene, QUESTIONS, max_new_tokens=limits, should_stop=should_stop, on_text=on_text
    )
    assert [a.answer_tokens for a in answers] == [3, 5, 1, 0]
    assert [a.finish_reason for a in answers] == ["length", "canceled", "length", "canceled"]
    for answer, one in zip(answers, alone, strict=True):
        assert answer.token_ids == one.token_ids[: answer.answer_tokens]
    assert asked == [3, 6, 1, 1]
    assert [len(texts.get(i, ())) for i in range(4)] == [3, 5, 1, 0]
    assert texts[1][-1] == answers[1].text
    assert answers[3].confidence == 0.0


def test_an_end_token_ends_one_answer_and_not_the_others(engine, scene, alone):
    loaded = engine.loaded
    end = alone[0].token_ids[2]
    changed = type(loaded)(**{**vars(loaded), "end_token_ids": frozenset({end})})
    other = SceneEngine(changed, engine.info, engine.selector)
    seen = other.see(WIDE)
    answers = other.ask_many(seen, QUESTIONS, max_new_tokens=LENGTH)
    for answer, one in zip(answers, alone, strict=True):
        ids = one.token_ids
        kept = ids[: ids.index(end)] if end in ids else ids
        assert answer.token_ids == kept
        assert answer.finish_reason == ("stop" if end in ids else "length")


def test_many_choices_are_scored_like_each_alone(engine, scene):
    together = engine.choose_many(scene, ASKED)
    for (question, choices), other in zip(ASKED, together, strict=True):
        one = engine.choose(scene, question, choices)
        assert other.probabilities == pytest.approx(one.probabilities, abs=1e-5)
        assert (other.text, other.token_ids) == (one.text, one.token_ids)
        assert other.prompt_tokens == one.prompt_tokens
    assert engine.choose_many(scene, []) == []


def test_many_choices_cost_one_pass(engine, scene):
    computed = []
    norm = engine.loaded.model.model.language_model.norm
    hook = norm.register_forward_hook(lambda *_: computed.append(None))
    engine.choose_many(scene, ASKED)
    engine.ask_many(scene, QUESTIONS, max_new_tokens=1)
    hook.remove()
    assert len(computed) == 2


def test_one_bad_question_and_nothing_is_computed(engine, scene):
    computed = []
    norm = engine.loaded.model.model.language_model.norm
    hook = norm.register_forward_hook(lambda *_: computed.append(None))
    with pytest.raises(UserError, match="empty"):
        engine.ask_many(scene, [QUESTIONS[0], " "])
    with pytest.raises(UserError, match="two or more"):
        engine.choose_many(scene, [ASKED[0], ("why?", ["because"])])
    with pytest.raises(UserError, match="max_new_tokens"):
        engine.ask_many(scene, QUESTIONS[:2], max_new_tokens=(5, 0))
    with pytest.raises(ValueError, match="zip"):
        engine.ask_many(scene, QUESTIONS, max_new_tokens=(5, 5))
    hook.remove()
    assert computed == []


def test_asking_one_scene_again_copies_nothing(engine):
    first, second = engine.see(WIDE), engine.see(TALL)
    engine.ask(first, QUESTIONS[0])
    cache = engine._language._cache
    with torch.inference_mode():
        cache.keys[0][:, :, first.prefix.length - 1] = 7.0  # what a copy would mend
    engine.ask(first, QUESTIONS[1], max_new_tokens=2)
    assert bool((cache.keys[0][:, :, first.prefix.length - 1] == 7.0).all())
    engine.ask(second, QUESTIONS[1], max_new_tokens=2)
    wrong = engine.ask(first, QUESTIONS[1], max_new_tokens=LENGTH)
    assert (
        wrong.token_ids == engine.ask(engine.see(WIDE), QUESTIONS[1], max_new_tokens=16).token_ids
    )


def test_the_system_prompt_is_read_once(engine, checkpoint):
    prompted = SceneEngine(engine.loaded, engine.info, engine.selector, "be brief and kind.")
    read = []
    embedding = engine.loaded.model.model.language_model.embed_tokens
    hook = embedding.register_forward_hook(lambda _, ids, __: read.append(ids[0].numel()))
    first = prompted.see(WIDE)
    assert read == [len(prompted._prompt.before)]
    prompted.see(TALL)
    hook.remove()
    assert len(read) == 1
    assert first.prefix.length == len(prompted._prompt.before) + 16


def test_a_long_answer_outgrows_its_room(engine, scene, monkeypatch):
    whole = engine.ask(scene, QUESTIONS[0], max_new_tokens=200)
    monkeypatch.setattr("svd_vlm_ros.models.language.model.ROOM", 1)
    engine._language._cache.begin(None, 1)
    engine._language._cache._allocate(1)
    cramped = engine.ask(engine.see(WIDE), QUESTIONS[0], max_new_tokens=200)
    assert cramped.token_ids == whole.token_ids


def test_tokens_are_equal_when_the_next_step_is_asked_for_ahead(engine, scene, alone, monkeypatch):
    begin = Writer.__init__
    monkeypatch.setattr(
        Writer, "__init__", lambda *given, **named: begin(*given, **{**named, "ahead": True})
    )
    for question, one in zip(QUESTIONS, alone, strict=True):
        assert engine.ask(scene, question, max_new_tokens=LENGTH).token_ids == one.token_ids
    together = engine.ask_many(scene, QUESTIONS, max_new_tokens=(16, 5, 16, 2))
    for answer, one in zip(together, alone, strict=True):
        assert answer.token_ids == one.token_ids[: answer.answer_tokens]
    calls = iter([None, None, "canceled"])
    stopped = engine.ask(scene, QUESTIONS[0], should_stop=lambda: next(calls))
    assert stopped.token_ids == alone[0].token_ids[:2]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_batches_agree_within_their_precision(precision):
    engine = SceneEngine.load("random:tiny", precision=precision, visual_tokens=32, device="cpu")
    scene = engine.see(WIDE)
    for one, other in zip(
        [engine.choose(scene, *asked) for asked in ASKED],
        engine.choose_many(scene, ASKED),
        strict=True,
    ):
        assert other.probabilities == pytest.approx(one.probabilities, abs=0.05)
    alone = [engine.ask(scene, question, max_new_tokens=1) for question in QUESTIONS]
    together = engine.ask_many(scene, QUESTIONS, max_new_tokens=1)
    for one, other in zip(alone, together, strict=True):
        assert other.confidence == pytest.approx(one.confidence, abs=0.05)


def test_many_questions_to_scout():
    engine = SceneEngine.load("scout", precision="fp32", visual_tokens=64, device="cpu")
    questions = (
        "is there a tree?",
        "what is the ground?",
        "how is the sky?",
        "describe the scene.",
    )
    for seed in HELD_OUT_SEEDS[:3]:
        scene = engine.see(render(sample_scene(seed)))
        together = engine.ask_many(scene, questions)
        for question, answer in zip(questions, together, strict=True):
            one = engine.ask(scene, question)
            assert (answer.token_ids, answer.finish_reason) == (one.token_ids, one.finish_reason)
