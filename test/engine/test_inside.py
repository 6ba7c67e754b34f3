# SPDX-License-Identifier: Apache-2.0
"""Selectors inside the language model, against a plain reading without caches (`plain.py`)."""

import itertools

import checkpoints
import numpy as np
import plain
import pytest
import torch

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene
from svd_vlm_ros.selection import Budget, make_selector, selector_names

INSIDE = ("fastv", "pyramiddrop", "sparsevlm", "atp")
QUESTIONS = ("is the path clear?", "What colour is the car on the left, and what stands behind it?")
generator = np.random.default_rng(0)
WIDE = generator.integers(0, 256, (90, 160, 3), dtype=np.uint8)
LAYERS, PATCHES, BUDGET = 8, 49, 24


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """An engine with 49 patches, grouped heads and 8 layers, so that all stages have a place."""
    shape = checkpoints.SHAPES["112px-49-patches-grouped-heads"]
    checkpoints.SHAPES["deep"] = {
        "vision": shape["vision"],
        "text": {**shape["text"], "num_hidden_layers": LAYERS},
    }
    try:
        folder = checkpoints.make_checkpoint(tmp_path_factory.mktemp("deep"), "deep", seed=3)
    finally:
        del checkpoints.SHAPES["deep"]
    return SceneEngine.load(str(folder), precision="fp32", device="cpu", selector="none")


def reader_of(engine, name):
    """The plain reading of a method, with the counts that its plan names."""
    selector = engine.selector
    counts = selector.plan(LAYERS, PATCHES, Budget(BUDGET)).counts
    stages = {i: counts[i] for i in range(1, LAYERS) if counts[i] < counts[i - 1]}
    model = engine.loaded.model
    if name == "fastv":
        return plain.PlainReader(model, plain.last_token, stages, False, "previous")
    if name == "pyramiddrop":
        return plain.PlainReader(model, plain.last_token, stages, True, "next")
    if name == "atp":
        rule = plain.atp(selector.balance, selector.mass)
        return plain.PlainReader(model, rule, stages, False, "previous")
    kept_at = {}
    for layer, count in stages.items():
        before = counts[layer - 1]
        fits = [k for k in range(count) if k + (int((before - k) * 0.3) + 1) // 10 + 1 <= count]
        kept_at[before] = max(fits)
    return plain.PlainReader(model, plain.sparsevlm(kept_at), stages, True, "previous")


@pytest.mark.parametrize("name", INSIDE)
def test_tokens_kept_and_written_equal_a_plain_reading(deep, name):
    deep.use_selector(name, visual_tokens=BUDGET)
    scene = deep.see(WIDE)
    kept = []
    for question in QUESTIONS:
        answer = deep.ask(scene, question, max_new_tokens=6)
        with torch.inference_mode():
            before = deep._language.embed(deep._prompt.before).rows
            words = deep._language.embed(deep._prompt.after(question)).rows
            tokens, layer_tokens, patches = reader_of(deep, name).answer(
                before, scene.pending.visual.rows, words, 6, deep.loaded.end_token_ids
            )
        assert answer.layer_tokens == layer_tokens
        assert answer.selection.indices.tolist() == patches
        assert answer.token_ids == tokens
        assert answer.prompt_tokens == len(before) + PATCHES + len(words)
        kept.append(patches)
    assert len(set(layer_tokens)) > 2 - (name == "fastv")
    assert kept[0] != kept[1]  # the question is looked at


@pytest.mark.parametrize("name", INSIDE)
def test_choices_are_scored_by_a_plain_reading(deep, name):
    deep.use_selector(name, visual_tokens=BUDGET)
    scene, choices = deep.see(WIDE), ("yes", "no", "a red car")
    answer = deep.choose(scene, QUESTIONS[0], choices)
    end = min(deep.loaded.end_token_ids)
    scores = []
    with torch.inference_mode():
        before = deep._language.embed(deep._prompt.before).rows
        words = deep._language.embed(deep._prompt.after(QUESTIONS[0])).rows
        reader = reader_of(deep, name)
        for choice in choices:
            text, score = words, 0.0
            for token in (*deep._prompt.answer(QUESTIONS[0], choice), end):
                found = reader.read(before, scene.pending.visual.rows, text, len(words))
                score += float(found.logits.double().log_softmax(0)[token])
                text = torch.cat([text, deep._language.embed([token]).rows])
            scores.append(score)
    wanted = torch.tensor(scores).softmax(0).tolist()
    assert answer.probabilities == pytest.approx(wanted, abs=1e-4)
    assert answer.layer_tokens == deep.ask(scene, QUESTIONS[0], max_new_tokens=1).layer_tokens


@pytest.mark.parametrize("name", INSIDE)
def test_reported_tokens_are_those_in_the_caches(deep, name):
    deep.use_selector(name, visual_tokens=BUDGET)
    answer = deep.ask(deep.see(WIDE), QUESTIONS[1], max_new_tokens=5)
    cache = deep._language._cache
    text = len(deep._prompt.before) + len(deep._prompt.after(QUESTIONS[1]))
    written = answer.answer_tokens - 1  # the last token was not read
    held = [length - text - written for length in cache.lengths]
    assert tuple(held) == answer.layer_tokens
    average = sum(held) / LAYERS
    assert BUDGET - 4 < average <= BUDGET or (name == "atp" and average <= BUDGET)
    assert len(answer.selection) == held[-1]


@pytest.mark.parametrize("name", INSIDE)
def test_a_budget_of_all_tokens_is_the_unpruned_model(checkpoint, name):
    engine = SceneEngine.load(str(checkpoint), precision="fp32", selector="none", device="cpu")
    scene = engine.see(WIDE)
    asked = [(question, ("yes", "no")) for question in QUESTIONS]
    wanted = engine.ask_many(scene, QUESTIONS, max_new_tokens=12)
    chosen = engine.choose_many(scene, asked)
    engine.use_selector(name, visual_tokens=scene.tokens_total)
    own = engine.see(WIDE)
    assert not own.shareable
    assert scene.shareable
    for one, other in zip(wanted, engine.ask_many(own, QUESTIONS, max_new_tokens=12), strict=True):
        assert (other.token_ids, other.layer_tokens) == (one.token_ids, one.layer_tokens)
        assert len(other.selection) == scene.tokens_total
        assert other.prompt_tokens == one.prompt_tokens
    for one, other in zip(chosen, engine.choose_many(own, asked), strict=True):
        assert other.probabilities == pytest.approx(one.probabilities, abs=1e-5)
    # the scene of before goes on to be answered as it was
    assert engine.ask(scene, QUESTIONS[0], max_new_tokens=12).token_ids == wanted[0].token_ids


def test_all_tokens_of_scout():
    engine = SceneEngine.load("scout", precision="fp32", selector="none", device="cpu")
    image = render(sample_scene(HELD_OUT_SEEDS[0]))
    questions = ("is there a tree?", "describe the scene.")
    wanted = [answer.token_ids for answer in engine.ask_many(engine.see(image), questions)]
    for name in INSIDE:
        engine.use_selector(name, visual_tokens=576)
        assert [a.token_ids for a in engine.ask_many(engine.see(image), questions)] == wanted


def test_recycled_tokens_tell_what_they_are_made_of(deep):
    deep.use_selector("sparsevlm", visual_tokens=BUDGET)
    selection = deep.ask(deep.see(WIDE), QUESTIONS[0], max_new_tokens=1).selection
    assert selection.indices.tolist() == sorted(set(selection.indices.tolist()))
    merge = selection.merge.to_dense()
    assert merge.shape == (len(selection), 1 + PATCHES)
    assert torch.allclose(merge.sum(dim=1), torch.ones(len(selection)))
    assert bool((merge[:, 0] == 0).all())  # no CLS in it
    assert bool((merge.sum(dim=0)[1:] <= 1 + 1e-6).all())  # no patch counts twice
    own = merge[range(len(selection)), 1 + selection.indices]
    assert bool((own > 0).all())
    assert bool((own < 1).any())  # some are merged
    deep.use_selector("sparsevlm", visual_tokens=BUDGET, recycle=False)
    assert deep.ask(deep.see(WIDE), QUESTIONS[0], max_new_tokens=1).selection.merge is None


def counts(name, tokens, layers=32, visual_tokens=576, **options):
    return make_selector(name, **options).plan(layers, visual_tokens, Budget(tokens)).counts


def test_the_papers_schedules():
    # FastV: 2 layers of 576, then what is left of the budget (192: 166.4)
    assert counts("fastv", 192) == (576,) * 2 + (166,) * 30
    assert counts("fastv", 64) == (576,) * 2 + (29,) * 30
    assert counts("fastv", 128, counts="kept") == (576,) * 2 + (128,) * 30
    # PyramidDrop: 1, .5, .25, .125 after 8 layers each
    assert counts("pyramiddrop", 270) == (576,) * 8 + (288,) * 8 + (144,) * 8 + (72,) * 8
    # SparseVLM: its table, recycled tokens on top (30 % of the dropped, ten to a cluster)
    assert counts("sparsevlm", 192) == (576,) * 2 + (309,) * 4 + (204,) * 9 + (113,) * 17
    assert counts("sparsevlm", 128) == (576,) * 2 + (312,) * 4 + (117,) * 9 + (39,) * 17
    assert counts("sparsevlm", 64) == (576,) * 2 + (82,) * 4 + (32,) * 9 + (18,) * 17
    for tokens, average in ((192, 192.03), (128, 128.625), (64, 64.81)):
        assert sum(counts("sparsevlm", tokens)) / 32 == pytest.approx(average, abs=0.01)
    falling = counts("atp", 192)
    assert falling[:2] == (576, 576)
    ratios = [b / a for a, b in itertools.pairwise(falling[1:12])]
    assert max(ratios) - min(ratios) < 0.02


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize(("layers", "visual_tokens"), [(32, 576), (4, 576), (2, 49), (40, 256)])
def test_plans_keep_to_their_budget(name, layers, visual_tokens):
    selector = make_selector(name)
    refused = []
    for tokens in range(1, visual_tokens + 2, 3):
        try:
            plan = selector.plan(layers, visual_tokens, Budget(tokens))
        except UserError:
            refused.append(tokens)
            continue
        assert len(plan.counts) == layers
        assert plan.counts[0] == visual_tokens
        assert all(a >= b >= 1 for a, b in itertools.pairwise(plan.counts))
        assert plan.average <= tokens + 0.9 if name == "sparsevlm" else plan.average <= tokens
        # one token less in the first stage would not do
        assert plan.average > tokens - 12 - visual_tokens / 16 or tokens > visual_tokens
    assert refused == list(range(1, visual_tokens + 2, 3))[: len(refused)]
    assert refused
    everything = selector.plan(layers, visual_tokens, Budget(visual_tokens + 5))
    assert everything.counts == (visual_tokens,) * layers


@pytest.mark.parametrize(
    ("name", "least"), [("fastv", 37), ("pyramiddrop", 145), ("sparsevlm", 40), ("atp", 37)]
)
def test_impossible_budgets_are_refused_with_the_reason(name, least):
    with pytest.raises(UserError, match=r"first . of 32 layers read all 576.*average"):
        counts(name, least - 1)
    assert counts(name, least)[-1] >= 1


def test_a_refused_selector_leaves_the_engine_as_it_was():
    with pytest.raises(UserError, match=r"'fastv' can't keep to 32 visual tokens.*first 1 of 2"):
        SceneEngine.load("random:tiny", selector="fastv", visual_tokens=32, device="cpu")
    engine = SceneEngine.load("random:tiny", visual_tokens=64, device="cpu")
    info = engine.info
    assert info.shareable
    for name, options in (
        ("fastv", {"visual_tokens": 32}),
        ("fastv", {"depth": 2}),
        ("pyramiddrop", {"visual_tokens": 400, "stages": (9, 3)}),
        ("sparsevlm", {"visual_tokens": 0.5}),
        ("atp", {"visual_tokens": 400, "mass": 0.0}),
        ("best", {}),
    ):
        with pytest.raises(UserError):
            engine.use_selector(name, **options)
        assert engine.info is info
    assert len(engine.see(WIDE).selection) == 64
    engine.use_selector("fastv", visual_tokens=300)
    assert (engine.info.selector, engine.info.visual_tokens) == ("fastv", 300)
    assert not engine.info.shareable
    with pytest.raises(UserError, match="can't keep to 32"):
        engine.see(WIDE, visual_tokens=32)


def test_atp_adapts_to_its_input(deep):
    deep.use_selector("atp", visual_tokens=40)
    images = [WIDE, np.full_like(WIDE, 90), WIDE[:, ::-1].copy()]
    spent = {deep.ask(deep.see(i), QUESTIONS[0], max_new_tokens=1).layer_tokens for i in images}
    assert len(spent) > 1
    deep.use_selector("atp", visual_tokens=0.5, token_cap=40)
    lean = deep.ask(deep.see(WIDE), QUESTIONS[0], max_new_tokens=1).layer_tokens
    deep.use_selector("atp", visual_tokens=40)
    rich = deep.ask(deep.see(WIDE), QUESTIONS[0], max_new_tokens=1).layer_tokens
    assert sum(lean) < sum(rich) <= 40 * LAYERS


def test_all_of_them_are_registered():
    assert set(selector_names("inside")) == set(INSIDE)
