# SPDX-License-Identifier: Apache-2.0
"""What holds for every selector: budgets, padding, order, and the values they are given."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_vlm_ros.defaults import SELECTOR
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection import (
    NEEDS,
    Budget,
    Encoder,
    VisualFeatures,
    looks_at_question,
    make_selector,
    selector_kind,
    selector_names,
)
from svd_vlm_ros.selection.dither import bayer
from svd_vlm_ros.selection.interface import count_to_keep, keep_highest

BEFORE = selector_names("before")
CHOOSING = [name for name in BEFORE if name != "none"]
ADAPTIVE = ["svd", "hired", "random", "grid", "norm"]  # their scores sum to a share of something
MERGING = ["visionzip", "trim", "tome"]


def middle_rows(grid=(6, 8), first=2, last=4):
    valid = torch.zeros(grid, dtype=torch.bool)
    valid[first:last] = True
    return valid.flatten()


def test_the_names_begin_with_the_default():
    assert selector_names()[0] == SELECTOR == "svd-cover"
    assert {"none", "random", "grid", "norm"} <= set(selector_names())
    assert [make_selector(name).name for name in selector_names()] == selector_names()
    assert selector_names("before") + selector_names("inside") == selector_names()
    assert {selector_kind(name) for name in selector_names("before")} == {"before"}


@pytest.mark.parametrize("name", BEFORE)
def test_what_a_selector_needs_has_a_name_and_is_asked_for(name, make_features):
    select = make_selector(name)
    assert select.needs <= set(NEEDS)
    bare = VisualFeatures(torch.randn(48, 16), (6, 8))
    if select.needs:
        with pytest.raises(ValueError, match=f"'{name}' needs '({'|'.join(select.needs)})'"):
            select(bare, Budget(5))
    else:
        select(bare, Budget(5))
    assert all(make_features().has(need) for need in select.needs)
    assert not any(bare.has(need) for need in NEEDS)


def test_those_that_look_at_the_question_say_so():
    asking = {name for name in BEFORE if looks_at_question(make_selector(name))}
    assert asking == {"trim", "mmtok", "cdpruner"}


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("tokens", [1, 5, 47, 48, 49, 10_000])
def test_a_fixed_budget_is_kept_to_the_token(name, tokens, make_features):
    features = make_features()
    chosen = make_selector(name)(features, Budget(tokens))
    wanted = 48 if name == "none" else min(tokens, 48)
    assert len(chosen) == wanted
    assert chosen.indices.dtype == torch.int64
    assert chosen.indices.tolist() == sorted(set(chosen.indices.tolist()))
    assert chosen.scores.dtype == torch.float32
    assert chosen.scores.shape == (48,)
    assert float(chosen.scores.sum()) == pytest.approx(1.0, abs=1e-5)
    assert (chosen.merge is not None) == (name in MERGING and tokens < 48)


@pytest.mark.parametrize("name", CHOOSING)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tokens=st.integers(1, 60),
    energy=st.one_of(st.none(), st.floats(0.01, 1.0)),
)
def test_padding_is_never_kept_and_never_merged(name, make_features, seed, tokens, energy):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(48, generator=generator) > 0.5
    valid[int(torch.randint(48, (1,), generator=generator))] = True
    budget = Budget(tokens, energy if name in ADAPTIVE else None)
    chosen = make_selector(name)(make_features(seed, valid=valid), budget)
    assert bool(valid[chosen.indices].all())
    assert float(chosen.scores[~valid].sum()) == 0.0
    assert float(chosen.scores.sum()) == pytest.approx(1.0, abs=1e-5)
    assert 1 <= len(chosen) <= min(tokens, int(valid.sum()))
    if budget.energy is None:
        assert len(chosen) == min(tokens, int(valid.sum()))
    if chosen.merge is not None:
        assert float(chosen.merge.to_dense()[:, 1:][:, ~valid].abs().sum()) == 0.0


@pytest.mark.parametrize("name", CHOOSING)
def test_a_budget_above_the_valid_patches_keeps_all_of_them(name, make_features):
    valid = middle_rows()
    chosen = make_selector(name)(make_features(valid=valid), Budget(40))
    assert chosen.indices.tolist() == valid.nonzero().flatten().tolist()
    assert chosen.merge is None
    assert chosen.features is None


def test_none_keeps_padding_too(make_features):
    chosen = make_selector("none")(make_features(valid=middle_rows()), Budget(3, 0.5))
    assert chosen.indices.tolist() == list(range(48))
    assert float(chosen.scores[:16].sum()) == 0.0


@pytest.mark.parametrize("name", ADAPTIVE)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), energy=st.floats(0.01, 1.0))
def test_the_adaptive_rule_keeps_the_fewest_that_reach_the_energy(
    name, make_features, seed, energy
):
    chosen = make_selector(name)(make_features(seed), Budget(48, energy))
    scores = chosen.scores.double()
    best = scores.sort(descending=True).values
    assert float(scores[chosen.indices].sum()) == pytest.approx(
        float(best[: len(chosen)].sum()), abs=1e-6
    )
    assert float(best[: len(chosen)].sum()) >= energy - 1e-6
    assert float(best[: len(chosen) - 1].sum()) < energy + 1e-6


@pytest.mark.parametrize(
    "name", [name for name in CHOOSING if name not in (*ADAPTIVE, "svd-cover")]
)
def test_what_has_no_energy_refuses_one(name, make_features):
    with pytest.raises(UserError, match=f"'{name}' chooses a set .* give it a number"):
        make_selector(name)(make_features(), Budget(48, 0.9))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_cap_bounds_the_adaptive_rule(name, make_features):
    select = make_selector(name)
    features = make_features()
    free = select(features, Budget(48, 0.8))
    capped = select(features, Budget(5, 0.8))
    assert len(free) > 5
    assert capped.indices.tolist() == select(features, Budget(5)).indices.tolist()


def test_the_count_is_minimal_at_exact_sums():
    ranked = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    counts = [count_to_keep(ranked, Budget(4, energy)) for energy in (0.1, 0.5, 0.6, 0.75, 0.9, 1)]
    assert counts == [1, 1, 2, 2, 4, 4]
    tenths = torch.full((10,), 0.1, dtype=torch.float64)  # their sum is a bit below 1
    assert count_to_keep(tenths, Budget(10, 1.0)) == 10
    assert count_to_keep(tenths, Budget(10, 0.3)) == 3
    assert count_to_keep(tenths, Budget(2, 0.3)) == 2


def test_scores_that_differ_by_rounding_only_are_equal(make_features):
    features = make_features(grid=(1, 4))
    scores = torch.tensor([0.25, 0.25 + 1e-15, 0.25 - 1e-15, 0.25], dtype=torch.float64)
    assert keep_highest(scores, features, Budget(2)).indices.tolist() == [0, 1]


def test_keeping_asks_for_a_score_for_each_valid_patch(make_features):
    with pytest.raises(ValueError, match="16 patches are valid"):
        keep_highest(torch.ones(48), make_features(valid=middle_rows()), Budget(2))


def test_random_depends_on_image_and_seed_only(make_features):
    one, other = make_features(1), make_features(2)
    select = make_selector("random")
    first = select(one, Budget(8)).indices.tolist()
    assert select(other, Budget(8)).indices.tolist() != first
    torch.manual_seed(123)
    assert make_selector("random")(make_features(1), Budget(8)).indices.tolist() == first
    assert make_selector("random", seed=1)(one, Budget(8)).indices.tolist() != first
    assert set(first) <= set(select(one, Budget(20)).indices.tolist())


def test_random_keeps_each_patch_equally_often(make_features):
    counts = torch.zeros(12)
    for seed in range(600):
        chosen = make_selector("random", seed=seed)(make_features(grid=(3, 4)), Budget(3))
        counts[chosen.indices] += 1
    # 600 draws of 3 of 12: 150 each, standard deviation 10.6
    assert 105 < float(counts.min()) <= float(counts.max()) < 195


@pytest.mark.parametrize("tokens", [16, 36, 64, 144])
def test_grid_covers_the_image_evenly(tokens, make_features):
    chosen = make_selector("grid")(make_features(grid=(24, 24), width=2), Budget(tokens))
    rows, columns = chosen.indices // 24, chosen.indices % 24
    for axis in (rows, columns):
        thirds = torch.bincount(axis // 8, minlength=3)
        assert int(thirds.max()) - int(thirds.min()) <= tokens // 8
    distances = torch.cdist(torch.stack([rows, columns], 1).float(), _all_places())
    # No place of the image is far from a kept patch: the ideal square spacing, and half as much.
    assert float(distances.min(dim=0).values.max()) <= 1.5 * 24 / tokens**0.5


def test_grid_is_nested_and_ignores_the_image(make_features):
    select = make_selector("grid")
    few, many = select(make_features(1), Budget(7)), select(make_features(2), Budget(20))
    assert set(few.indices.tolist()) <= set(many.indices.tolist())


def test_bayer_holds_every_number_once():
    assert bayer(1).tolist() == [[0]]
    assert bayer(2).tolist() == [[0, 2], [3, 1]]
    assert sorted(bayer(5).flatten().tolist()) == list(range(64))


def test_norm_keeps_the_largest_rows():
    patches = torch.zeros(6, 3)
    patches[[1, 4], 0] = torch.tensor([2.0, -3.0])
    features = VisualFeatures(patches, (2, 3))
    chosen = make_selector("norm")(features, Budget(2))
    assert chosen.indices.tolist() == [1, 4]
    assert chosen.scores[4] == pytest.approx(0.6)
    flat = make_selector("norm")(VisualFeatures(torch.zeros(6, 3), (2, 3)), Budget(2))
    assert flat.indices.tolist() == [0, 1]


@pytest.mark.parametrize("name", BEFORE)
def test_selectors_take_inference_tensors_and_change_nothing(name, make_features):
    with torch.inference_mode():
        features, before = make_features(), make_features()
        make_selector(name)(features, Budget(5))
        for field in ("patches", "class_attention", "class_token", "keys", "projected", "question"):
            assert torch.equal(getattr(features, field), getattr(before, field))
        assert torch.equal(features.image_text.patches, before.image_text.patches)
        assert torch.equal(features.encoder.hidden, before.encoder.hidden)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(UserError, match="no selector 'fast': take one of svd-cover, svd, "):
        make_selector("fast")
    with pytest.raises(UserError, match="'norm' has no option 'seed': it has none"):
        make_selector("norm", seed=1)
    with pytest.raises(UserError, match="its options are seed"):
        make_selector("random", sed=1)


@pytest.mark.parametrize(
    ("tokens", "energy"), [(0, None), (-1, None), (2.5, None), (True, None), (5, 0.0), (5, 1.01)]
)
def test_budgets_out_of_range_are_refused(tokens, energy):
    with pytest.raises(UserError):
        Budget(tokens, energy)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="grid"):
        VisualFeatures(torch.zeros(5, 2), (2, 3))
    with pytest.raises(ValueError, match="float"):
        VisualFeatures(torch.zeros(6, 2, dtype=torch.int64), (2, 3))
    with pytest.raises(ValueError, match="bool tensor"):
        VisualFeatures(torch.zeros(6, 2), (2, 3), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="no patch is valid"):
        VisualFeatures(torch.zeros(6, 2), (2, 3), torch.zeros(6, dtype=torch.bool))


def _all_places():
    return torch.cartesian_prod(torch.arange(24.0), torch.arange(24.0))


def test_patches_need_not_form_a_grid():
    features = VisualFeatures(torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), None)
    for name in ("svd-cover", "svd", "random", "norm"):
        assert len(make_selector(name)(features, Budget(3))) == 3
    with pytest.raises(UserError, match="form grids"):
        make_selector("grid")(features, Budget(3))


def test_an_encoder_without_class_token_is_merged_in(layers):
    """ToMe on patches alone: nothing in front of them, and every budget is met."""
    hidden = torch.randn(1, 48, 16, generator=torch.Generator().manual_seed(1))
    encoder = Encoder(hidden, layers, class_tokens=0)
    for count in (5, 30, 48):
        patches, chosen = make_selector("tome").encode(encoder, (6, 8), None, Budget(count))
        assert (patches.shape, len(chosen)) == ((48, 16), count)
    plain = hidden
    for layer in layers:
        plain = layer(plain, None)
    torch.testing.assert_close(patches, plain[0], atol=1e-5, rtol=1e-5)
