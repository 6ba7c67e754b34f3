# SPDX-License-Identifier: Apache-2.0
"""What must not change a selection: order, company, padding, precision; and who wins a tie."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from svd_vlm_ros.models.files import scout_folder
from svd_vlm_ros.models.llava.loading import load_llava
from svd_vlm_ros.models.llava.preprocess import preprocess
from svd_vlm_ros.models.llava.vision import VisionTower
from svd_vlm_ros.models.relevance import word_relevance
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene
from svd_vlm_ros.selection import Budget, Encoder, VisualFeatures, make_selector, selector_names
from svd_vlm_ros.selection.greedy import greedy_coverage, greedy_volume
from svd_vlm_ros.selection.tokens import token_rows

# The others look at where a patch lies: `grid` by its rule, `random` by its draw, `visionzip`,
# `vispruner` and `tome` because they split what is left by even and odd places.
EQUIVARIANT = (
    "svd-cover",
    "svd-pivoted",
    "hired",
    "trim",
    "divprune",
    "scope",
    "mmtok",
    "cdpruner",
    "norm",
)
ONE_OF_TWO = (
    "svd-cover",
    "svd-pivoted",
    "divprune",
    "scope",
    "cdpruner",
)  # never take the same thing twice
OF_PATCHES = [n for n in selector_names("before") if n not in ("none", "random", "grid", "tome")]


def kept(name, features, budget):
    return make_selector(name)(features, Budget(budget)).indices.tolist()


@pytest.mark.parametrize("name", EQUIVARIANT)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), budget=st.integers(1, 15))
def test_permuted_patches_give_the_permuted_selection(name, make_features, reordered, seed, budget):
    features = make_features(seed)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(seed))
    if name == "divprune":
        # Its first patch is one of two if the loneliest have each other as nearest neighbours.
        rows = torch.nn.functional.normalize(features.projected.double(), dim=1)
        nearest = (rows @ rows.T).fill_diagonal_(-1.0).amax(dim=1).sort().values
        assume(float(nearest[1] - nearest[0]) > 1e-9)
    permuted = kept(name, reordered(features, order), budget)
    assert sorted(order[permuted].tolist()) == kept(name, features, budget)


@pytest.mark.parametrize("name", OF_PATCHES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), budget=st.integers(1, 30))
def test_padding_is_as_if_it_were_not_there(name, make_features, reordered, seed, budget):
    valid = torch.rand(48, generator=torch.Generator().manual_seed(seed)) > 0.4
    valid[0] = True
    places = valid.nonzero().flatten()
    whole = make_features(seed)
    alone = reordered(whole, places)
    loud = replace(whole, valid=valid, patches=torch.where(valid[:, None], whole.patches, 1e3))
    assert kept(name, loud, budget) == places[kept(name, alone, budget)].tolist()


@pytest.mark.parametrize("name", [name for name in selector_names("before") if name != "none"])
def test_an_image_among_others_keeps_what_it_keeps_alone(name, make_features):
    images = [make_features(seed) for seed in range(4)]
    alone = [kept(name, features, 7) for features in images]
    # Four images in one tensor, looked at in another order, each a view of it.
    batch = {
        field: torch.stack([getattr(features, field) for features in images], dim=1)
        for field in ("patches", "keys", "projected")
    }
    for number in (2, 0, 3, 1):
        view = replace(images[number], **{field: rows[:, number] for field, rows in batch.items()})
        assert not view.patches.is_contiguous()
        assert kept(name, view, 7) == alone[number]


def doubled(make_features, reordered, count=24):
    """An image in which the patches 2i and 2i + 1 are the same."""
    order = torch.arange(count).repeat_interleave(2)
    return reordered(make_features(11), order)


@pytest.mark.parametrize("name", [*ONE_OF_TWO, "hired", "trim", "mmtok"])
@pytest.mark.parametrize("budget", [1, 5, 11])
def test_of_equal_patches_the_lower_one_is_kept(name, budget, make_features, reordered):
    features = doubled(make_features, reordered)
    chosen = kept(name, features, budget)
    alone = [i for i in chosen if i ^ 1 not in chosen]
    assert all(i % 2 == 0 for i in alone)
    if name in ONE_OF_TWO:
        assert len(alone) == budget


@pytest.mark.parametrize("name", OF_PATCHES)
def test_an_image_of_one_colour_is_no_fault(name, make_features):
    features = make_features(3)
    same = {field: torch.ones_like(getattr(features, field)) for field in ("patches", "keys")}
    flat = replace(features, **same, class_attention=torch.full((2, 48), 1 / 49))
    chosen = make_selector(name)(flat, Budget(9))
    assert len(chosen) == 9
    assert bool(chosen.scores.isfinite().all())
    assert bool(token_rows(flat, chosen).isfinite().all())
    black = replace(features, patches=torch.zeros(48, 16), projected=torch.zeros(48, 24))
    assert len(kept(name, black, 9)) == 9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 90), levels=st.sampled_from([None, 1, 4]))
def test_the_greedy_coverage_is_the_plain_one(seed, count, levels):
    generator = np.random.default_rng(seed)
    coverage = generator.normal(size=(90, 40))
    weights = generator.random(90)
    if levels:  # many ties
        coverage, weights = np.round(coverage * levels) / levels, np.ones(90)
    covered = np.zeros(40)
    wanted = []
    for _ in range(count):
        gains = np.maximum(coverage - covered, 0.0).sum(axis=1) * weights
        gains[wanted] = -1.0
        wanted.append(int(np.flatnonzero(gains >= gains.max() - 1e-9)[0]))
        covered = np.maximum(covered, coverage[wanted[-1]])
    chosen, gains = greedy_coverage(coverage.T, count, weights)
    assert chosen == wanted
    left = np.maximum(coverage - covered, 0.0).sum(axis=1) * weights
    left[wanted] = gains[wanted]
    assert np.abs(gains - left).max() < 1e-12


def test_the_volume_ends_where_the_span_is_full():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(20, 5))
    chosen, left = greedy_volume(rows @ rows.T, 12)
    assert len(chosen) == len(set(chosen)) == 5
    assert np.abs(left[[i for i in range(20) if i not in chosen]]).max() < 1e-10
    assert greedy_volume(rows @ rows.T, 4, first=[7, 3])[0][:2] == [7, 3]
    assert greedy_volume(np.zeros((4, 4)), 2)[0] == []


# Those that rounding to float16 hardly moves. `docs/selectors.md` has the figures of the others,
# which are unsteady by their nature.
STEADY = (
    "svd",
    "svd-cover",
    "visionzip",
    "hired",
    "trim",
    "divprune",
    "scope",
    "mmtok",
    "norm",
)


@pytest.fixture(scope="module")
def scenes():
    if not (scout_folder() / "model.safetensors").is_file():
        pytest.skip("scout has no weights yet")
    loaded = load_llava("scout", precision="fp32", device="cpu")
    tower = VisionTower(loaded.model)
    needs = frozenset({"class_attention", "keys", "projected", "encoder"})
    asked = loaded.tokenizer("what colour is the car?", return_tensors="pt").input_ids[0]
    seen = []
    with torch.inference_mode():
        question = loaded.model.model.language_model.embed_tokens(asked)
        for seed in HELD_OUT_SEEDS[:6]:
            prepared = preprocess(render(sample_scene(seed)), loaded.images, "pad")
            seen.append(replace(tower(prepared, needs), question=question))
    return seen


def half(features: VisualFeatures) -> VisualFeatures:
    names = (
        "patches",
        "class_attention",
        "class_token",
        "keys",
        "class_key",
        "projected",
        "question",
    )
    rounded = {name: getattr(features, name).half().float() for name in names}
    encoder = Encoder(features.encoder.hidden.half().float(), features.encoder.layers)
    return replace(features, **rounded, encoder=encoder)


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("budget", [64, 16])
def test_float16_features_change_at_most_2_percent(name, budget, scenes):
    options = {"relevance": "words"} if name == "trim" else {}
    select = make_selector(name, **options)
    changed = 0
    for scene in scenes:
        both = []
        for features in (scene, half(scene)):
            seen = replace(features, image_text=word_relevance(features, features.question))
            both.append(set(select(seen, Budget(budget)).indices.tolist()))
        changed += len(both[0] - both[1])
    assert changed <= 0.02 * budget * len(scenes)
