# SPDX-License-Identifier: Apache-2.0
"""The selectors in NumPy keep what those of torch keep, index by index."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_vlm_ros import selection
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.onnx_runtime.selectors import SELECTORS, VisualFeatures, make_selector
from svd_vlm_ros.onnx_runtime.selectors.methods import uniform
from svd_vlm_ros.selection import Budget

OPTIONS = {
    "svd": [{}, {"rank": "budget"}, {"rank_energy": 0.7}, {"centre": True}],
    "svd-cover": [{}, {"beta": 0.0}, {"beta": 1.0, "ridge": 0.1}],
    "random": [{}, {"seed": 7}],
}
ADAPTIVE = ("svd", "svd-cover", "hired", "norm", "grid", "random")
CASES = [(name, one) for name in SELECTORS for one in OPTIONS.get(name, [{}])]


@st.composite
def images(draw):
    """Features in both runtimes: random ones, of low rank, with duplicates, with padding."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    count, width = rows * columns, draw(st.sampled_from([3, 16, 96]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    patches = generator.standard_normal((count, width))
    if draw(st.booleans()):
        patches = generator.standard_normal((count, 2)) @ generator.standard_normal((2, width))
        patches += 0.01 * generator.standard_normal((count, width))
    if draw(st.booleans()):
        patches = patches[generator.integers(0, count, count)]
    valid = None
    if draw(st.booleans()):
        valid = generator.random(count) < 0.7
        valid[generator.integers(0, count)] = True
    attention = generator.random((2, count))
    arrays = {
        "patches": patches,
        "class_attention": attention / (attention.sum(axis=1, keepdims=True) + 1.0),
        "projected": generator.standard_normal((count, 8)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    mine = VisualFeatures(grid=(rows, columns), valid=valid, **arrays)
    theirs = selection.VisualFeatures(
        grid=(rows, columns), valid=None if valid is None else torch.from_numpy(valid), **tensors
    )
    return mine, theirs


def check(name, options, mine, theirs, budget):
    kept = make_selector(name, **options)(mine, budget)
    wanted = selection.make_selector(name, **options)(theirs, budget)
    assert kept.indices.tolist() == wanted.indices.tolist()
    assert kept.indices.dtype == np.int64
    assert kept.scores == pytest.approx(wanted.scores.numpy(), abs=1e-6)
    assert kept.scores.dtype == np.float32


@pytest.mark.parametrize(("name", "options"), CASES)
@given(image=images(), tokens=st.integers(1, 90))
@settings(max_examples=60, deadline=None)
def test_a_fixed_budget_keeps_the_same(name, options, image, tokens):
    check(name, options, *image, Budget(tokens))


@pytest.mark.parametrize("name", ADAPTIVE)
@given(image=images(), tokens=st.integers(1, 90), energy=st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_an_energy_keeps_the_same(name, image, tokens, energy):
    check(name, {}, *image, Budget(tokens, energy))


@pytest.mark.parametrize("tokens", [1, 16, 64, 192, 400, 576])
@pytest.mark.parametrize("name", SELECTORS)
def test_on_features_of_scout(stock, name, tokens):
    """Torch's features for both, with the padding of a wide image."""
    image = np.random.default_rng(3).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    image[20:60, 30:100] = 90
    needs = frozenset({"class_attention", "projected"})
    theirs = stock.features(image, needs)
    arrays = ("patches", "valid", "class_attention", "class_token", "projected")
    mine = VisualFeatures(
        grid=theirs.grid, **{each: getattr(theirs, each).numpy() for each in arrays}
    )
    check(name, {}, mine, theirs, Budget(tokens))


def test_an_image_without_contrast():
    for value in (0.0, 1.0):
        patches = np.full((12, 4), value, dtype=np.float32)
        mine = VisualFeatures(patches, (3, 4))
        theirs = selection.VisualFeatures(torch.from_numpy(patches), (3, 4))
        for name in ("svd", "svd-cover", "norm"):
            check(name, {}, mine, theirs, Budget(5))


@pytest.mark.parametrize("seed", [0, 1, 2**31 + 5, 2**62 + 17])
def test_the_random_numbers_are_those_of_torch(seed):
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.rand(101, generator=generator, dtype=torch.float64).numpy()
    assert np.array_equal(uniform(seed, 101), wanted)


def test_others_are_refused_in_a_sentence_that_lists_those_that_work():
    for name in selection.selector_names():
        if name not in SELECTORS:
            with pytest.raises(UserError, match="does not run in the runtime onnx") as refused:
                make_selector(name)
            assert all(each in str(refused.value) for each in SELECTORS)
    with pytest.raises(UserError, match="There is no selector 'best'"):
        make_selector("best")
    with pytest.raises(UserError, match="no option 'warm_start': its options are rank,"):
        make_selector("svd", warm_start=True)
    with pytest.raises(UserError, match="rank_energy must be above 0"):
        make_selector("svd", rank_energy=0.0)


@pytest.mark.parametrize("name", ["divprune", "scope"])
def test_a_set_has_no_energy(name):
    patches = np.eye(4, dtype=np.float32)
    features = VisualFeatures(patches, (2, 2), class_attention=patches, projected=patches)
    with pytest.raises(UserError, match="knows no share of energy"):
        make_selector(name)(features, Budget(2, 0.5))
