# SPDX-License-Identifier: Apache-2.0
"""The runtime onnx answers as torch does: kept patches, tokens, probabilities, streams, stops."""

import itertools

import numpy as np
import pytest

from svd_vlm_ros.evaluation.held_out import scout_task

BUDGETS = (576, 192, 64, 16)
TASK = scout_task(4)
ITEMS = TASK.items[::2][:20]
IMAGES = {item.image: TASK.read(item.image) for item in ITEMS}
QUESTIONS = tuple(item.question for item in ITEMS[:3])
CHOICES = ("grass", "sand", "a red car", "asphalt")


@pytest.fixture
def wide():
    """Of a camera, so that there is padding."""
    return np.ascontiguousarray(next(iter(IMAGES.values()))[40:200])


def same(answer, other):
    return (
        answer.token_ids == other.token_ids
        and answer.text == other.text
        and answer.finish_reason == other.finish_reason
        and answer.prompt_tokens == other.prompt_tokens
        and answer.answer_tokens == other.answer_tokens
        and answer.layer_tokens == other.layer_tokens
        and answer.confidence == pytest.approx(other.confidence, abs=1e-4)
    )


@pytest.mark.parametrize("tokens", BUDGETS)
def test_kept_patches_and_answers_are_those_of_torch(onnx, stock, tokens):
    for image, items in itertools.groupby(ITEMS, key=lambda item: item.image):
        mine = onnx.see(IMAGES[image], visual_tokens=tokens)
        theirs = stock.see(IMAGES[image], visual_tokens=tokens)
        assert mine.selection.indices.tolist() == theirs.selection.indices.tolist()
        assert (mine.tokens_kept, mine.tokens_total, mine.grid, mine.image_shape) == (
            *(theirs.tokens_kept, theirs.tokens_total, theirs.grid),
            theirs.image_shape,
        )
        assert [mine.patch_box(i) for i in range(576)] == [theirs.patch_box(i) for i in range(576)]
        for item in items:
            answers = [
                engine.ask(scene, item.question, max_new_tokens=24)
                for engine, scene in ((onnx, mine), (stock, theirs))
            ]
            assert same(*answers), (item.id, [answer.text for answer in answers])


@pytest.mark.parametrize("selector", ["svd", "svd-cover", "hired", "divprune", "scope", "norm"])
def test_every_selector_keeps_the_same_on_features_of_each_runtime(onnx, stock, wide, selector):
    before = onnx.info
    try:
        for engine in (onnx, stock):
            engine.use_selector(selector, visual_tokens=48)
        mine, theirs = onnx.see(wide), stock.see(wide)
        assert mine.selection.indices.tolist() == theirs.selection.indices.tolist()
        assert mine.selection.scores == pytest.approx(theirs.selection.scores.numpy(), abs=1e-5)
        assert same(onnx.ask(mine, QUESTIONS[0]), stock.ask(theirs, QUESTIONS[0]))
    finally:
        for engine in (onnx, stock):
            engine.use_selector(before.selector, visual_tokens=before.visual_tokens)


def test_choices_have_the_probabilities_of_torch(onnx, stock, wide):
    asked = [(question, CHOICES) for question in QUESTIONS]
    mine = onnx.choose_many(onnx.see(wide), asked)
    theirs = stock.choose_many(stock.see(wide), asked)
    for answer, other in zip(mine, theirs, strict=True):
        assert answer.text == other.text
        assert answer.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert sum(answer.probabilities) == pytest.approx(1.0, abs=1e-9)
        assert answer.finish_reason == "choice"
        assert (answer.prompt_tokens, answer.answer_tokens) == (
            *(other.prompt_tokens, other.answer_tokens),
        )


def test_a_batch_answers_as_each_question_alone(onnx, wide):
    scene = onnx.see(wide, visual_tokens=32)
    together = onnx.ask_many(scene, QUESTIONS, max_new_tokens=[20, 3, 20])
    for question, limit, answer in zip(QUESTIONS, (20, 3, 20), together, strict=True):
        assert same(
            answer, onnx.ask(onnx.see(wide, visual_tokens=32), question, max_new_tokens=limit)
        )
    chosen = onnx.choose_many(scene, [(question, CHOICES) for question in QUESTIONS])
    for question, answer in zip(QUESTIONS, chosen, strict=True):
        alone = onnx.choose(onnx.see(wide, visual_tokens=32), question, CHOICES)
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_a_scene_asked_in_any_order_answers_like_a_fresh_one(onnx, wide):
    fresh = {q: onnx.ask(onnx.see(wide), q, max_new_tokens=8) for q in QUESTIONS}
    scene = onnx.see(wide)
    assert scene.prefix.memory_bytes == 0
    onnx.choose(scene, QUESTIONS[0], CHOICES)
    held, states = scene.prefix.memory_bytes, scene.prefix.states
    before = [state.numpy().copy() for state in states]
    assert held == sum(state.nbytes for state in before) > 0
    for order in itertools.permutations(QUESTIONS):
        for question in order:
            assert same(onnx.ask(scene, question, max_new_tokens=8), fresh[question])
    assert scene.prefix.states is states
    assert all(map(np.array_equal, before, (state.numpy() for state in states)))
    with pytest.raises(RuntimeError, match="never change"):
        scene.prefix.fill(())


def test_a_stream_grows_to_the_answer_and_stops_when_it_is_told(onnx, wide):
    scene, texts = onnx.see(wide), []
    whole = onnx.describe(scene, max_new_tokens=30, on_text=texts.append)
    assert texts[-1] == whole.text
    assert len(texts) == whole.answer_tokens > 4
    left = iter([None, None, None, "cancelled"])
    cut = onnx.describe(scene, max_new_tokens=30, should_stop=lambda: next(left))
    assert (cut.finish_reason, cut.token_ids) == ("cancelled", whole.token_ids[:3])
    never = onnx.ask(onnx.see(wide), QUESTIONS[0], should_stop=lambda: "late")
    assert (never.finish_reason, never.token_ids, never.confidence) == ("late", (), 0.0)


def test_one_of_a_batch_is_stopped_and_the_others_go_on(onnx, wide):
    scene = onnx.see(wide)
    whole = onnx.ask_many(scene, QUESTIONS, max_new_tokens=12)
    answers = onnx.ask_many(
        onnx.see(wide),
        QUESTIONS,
        max_new_tokens=12,
        should_stop=lambda index: "enough" if index == 0 else None,
    )
    assert (answers[0].finish_reason, answers[0].token_ids) == ("enough", ())
    assert all(map(same, answers[1:], whole[1:]))


def test_a_system_prompt_stands_in_front(onnx, stock, wide):
    try:
        for engine in (onnx, stock):
            engine.use_system_prompt("answer briefly.")
        mine, theirs = onnx.see(wide), stock.see(wide)
        assert mine.prefix.length == theirs.prefix.length
        assert same(onnx.ask(mine, QUESTIONS[1]), stock.ask(theirs, QUESTIONS[1]))
    finally:
        for engine in (onnx, stock):
            engine.use_system_prompt(None)


def test_original_positions_are_those_of_torch(exported, wide):
    from svd_vlm_ros.engine import SceneEngine

    engines = [
        SceneEngine.load(str(exported), position_policy="original", visual_tokens=24, device="cpu"),
        SceneEngine.load("scout", precision="fp32", position_policy="original", visual_tokens=24),
    ]
    scenes = [engine.see(wide) for engine in engines]
    assert scenes[0].prefix.end == scenes[1].prefix.end > scenes[0].prefix.length
    assert same(*(e.ask(s, QUESTIONS[0]) for e, s in zip(engines, scenes, strict=True)))
    for engine in engines:
        engine.close()


def test_an_energy_keeps_as_many_as_torch_does(onnx, stock, wide):
    for energy in (0.3, 0.9, 1.0):
        mine, theirs = (e.see(wide, visual_tokens=energy) for e in (onnx, stock))
        assert mine.selection.indices.tolist() == theirs.selection.indices.tolist()
