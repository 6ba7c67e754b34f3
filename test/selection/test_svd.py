# SPDX-License-Identifier: Apache-2.0
"""SVD-Prune against the full singular value decomposition in float64, see `full_svd.py`."""

import numpy as np
import pytest
import torch
from full_svd import full_svd_leverage, top
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection import Budget, VisualFeatures, make_selector
from svd_vlm_ros.selection.svd import SvdPrune, leverage, rank_of

BUDGETS = (192, 128, 64, 32, 16)


def spectrum(kind, rows, columns, generator):
    """A random matrix with a spectrum of a known kind, rounded to float32 as features are."""
    rank = min(rows, columns)
    steps = torch.arange(1, rank + 1, dtype=torch.float64)
    values = {
        # None has equal values: between them a subspace is not defined, and rounding would decide.
        "nearly flat": 2 - steps / rank,
        "power": steps**-1.0,
        "fast": 0.9**steps,
        "one large": torch.cat([torch.tensor([100.0]).double(), steps[1:] ** -0.5]),
        "low rank": torch.where(steps <= 12, 13 - steps, 1e-6),
        "stairs": torch.ceil(10 / steps**0.5) - steps / 1000,
    }[kind]
    u, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(columns, rank, generator=generator, dtype=torch.float64))
    return ((u * values) @ v.T).float()


def features(matrix, valid=None):
    return VisualFeatures(matrix, (1, len(matrix)), valid)


@pytest.mark.timeout(300)  # seconds on a free machine, but all of it linear algebra
def test_kept_indices_equal_those_of_a_full_svd_on_200_matrices():
    generator = torch.Generator().manual_seed(0)
    kinds = ("nearly flat", "power", "fast", "one large", "low rank", "stairs")
    for number in range(200):
        # wide as CLIP's (scaled down), square, tall as scout's; a few at full size below
        rows, columns = ((224, 320), (208, 208), (224, 80))[number % 3]
        matrix = spectrum(kinds[number % len(kinds)], rows, columns, generator)
        if number % 5 == 0:
            matrix = matrix + torch.randn(columns, generator=generator)  # a strong mean
        if number % 7 == 0:
            matrix = matrix.bfloat16().float()
        scores = full_svd_leverage(matrix.numpy())
        for budget in BUDGETS:
            kept = SvdPrune()(features(matrix), Budget(budget)).indices.tolist()
            assert kept == top(scores, budget), f"matrix {number}, {budget} tokens"


@pytest.mark.parametrize("kind", ["gaussian", "uniform", "one large"])
def test_kept_indices_equal_those_of_a_full_svd_at_the_size_of_clip(kind):
    generator = torch.Generator().manual_seed(1)
    if kind == "gaussian":
        matrix = torch.randn(576, 1024, generator=generator)
    elif kind == "uniform":
        matrix = torch.rand(576, 1024, generator=generator)
    else:
        matrix = spectrum(kind, 576, 1024, generator)
    for options in ({}, {"rank_energy": 0.7, "centre": True}):
        scores = full_svd_leverage(matrix.numpy(), **options)
        for budget in BUDGETS:
            kept = SvdPrune(**options)(features(matrix), Budget(budget)).indices.tolist()
            assert kept == top(scores, budget), f"{options}, {budget} tokens"


@pytest.mark.parametrize("shape", [(40, 70), (70, 40)])
def test_rank_budget_looks_at_no_more_directions_than_tokens(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    kept = SvdPrune(rank="budget")(features(matrix), Budget(5))
    wanted = full_svd_leverage(matrix.numpy(), largest_rank=5)
    assert kept.indices.tolist() == top(wanted, 5)
    np.testing.assert_allclose(kept.scores.numpy(), wanted, atol=1e-7)
    assert kept.indices.tolist() != SvdPrune()(features(matrix), Budget(5)).indices.tolist()


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_scores_are_the_leverage_and_sum_to_one(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    scores = leverage(matrix)
    assert scores.dtype == torch.float64
    assert float(scores.sum()) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(scores.numpy(), full_svd_leverage(matrix.numpy()), atol=1e-13)


def test_centring_takes_the_mean_patch_away():
    generator = torch.Generator().manual_seed(4)
    matrix = torch.randn(30, 20, generator=generator) + 50 * torch.randn(20, generator=generator)
    wanted = full_svd_leverage(matrix.numpy(), centre=True)
    np.testing.assert_allclose(leverage(matrix, centre=True).numpy(), wanted, atol=1e-11)
    # Not centred, the mean takes all of the energy: one direction, in which all are alike.
    assert float(leverage(matrix).std()) < float(leverage(matrix, centre=True).std()) / 2


def test_rank_is_the_smallest_that_reaches_the_energy():
    energies = torch.tensor([5.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    assert [rank_of(energies, share) for share in (0.1, 0.5, 0.51, 0.8, 0.9, 0.91, 1.0)] == [
        *(1, 1, 2, 2, 3, 4, 4)
    ]
    noise = torch.tensor([4.0, 1.0, 1e-15, 1e-16], dtype=torch.float64)
    assert rank_of(noise, 1.0) == 2


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(2, 40),
    columns=st.integers(1, 40),
    budget=st.integers(1, 45),
    rank=st.sampled_from(["energy", "budget"]),
    centre=st.booleans(),
)
def test_permuted_patches_give_the_permuted_selection(seed, rows, columns, budget, rank, centre):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator)
    order = torch.randperm(rows, generator=generator)
    select = SvdPrune(rank=rank, centre=centre)
    straight = select(features(matrix), Budget(budget))
    permuted = select(features(matrix[order]), Budget(budget))
    torch.testing.assert_close(permuted.scores, straight.scores[order], atol=1e-6, rtol=0)
    # Which of two equal patches is kept depends on their order, so compare what is kept by score.
    kept = straight.scores[straight.indices].sort().values
    torch.testing.assert_close(
        permuted.scores[permuted.indices].sort().values, kept, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("shape", [(24, 40), (24, 8)])
def test_of_equal_patches_the_lower_index_is_kept(shape):
    rows, columns = shape
    half = torch.randn(rows // 2, columns, generator=torch.Generator().manual_seed(5))
    matrix = half.repeat_interleave(2, dim=0)  # patches 2i and 2i+1 are the same
    for count in range(1, rows + 1, 2):
        kept = SvdPrune()(features(matrix), Budget(count)).indices.tolist()
        alone = [i for i in kept if i ^ 1 not in kept]
        assert len(alone) == 1
        assert alone[0] % 2 == 0


@pytest.mark.parametrize("centre", [False, True])
def test_an_image_without_contrast_has_equal_leverage(centre):
    matrix = torch.full((6, 4), 3.0) if centre else torch.zeros(6, 4)
    chosen = SvdPrune(centre=centre)(features(matrix), Budget(2))
    assert chosen.indices.tolist() == [0, 1]
    assert chosen.scores.tolist() == pytest.approx([1 / 6] * 6)


def test_padding_is_left_out_of_the_matrix():
    generator = torch.Generator().manual_seed(6)
    matrix = torch.randn(20, 30, generator=generator)
    valid = torch.rand(20, generator=generator) > 0.4
    loud = torch.where(valid[:, None], matrix, 1000.0)  # padding must not matter, however loud
    chosen = SvdPrune()(features(loud, valid), Budget(5))
    alone = SvdPrune()(features(matrix[valid]), Budget(5))
    assert chosen.indices.tolist() == valid.nonzero().flatten()[alone.indices].tolist()
    assert chosen.scores[~valid].abs().max() == 0


def test_inputs_are_not_changed():
    matrix = torch.randn(12, 9)
    before = matrix.clone()
    SvdPrune(centre=True)(features(matrix), Budget(3))
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type_is_taken(dtype):
    matrix = torch.randn(12, 9, generator=torch.Generator().manual_seed(7)).to(dtype)
    kept = SvdPrune()(features(matrix), Budget(4)).indices.tolist()
    assert kept == top(full_svd_leverage(matrix.double().numpy()), 4)


@pytest.mark.parametrize(
    "options", [{"rank": "full"}, {"rank_energy": 0.0}, {"rank_energy": 1.1}, {"energy": 0.9}]
)
def test_wrong_options_are_named(options):
    with pytest.raises(UserError, match=next(iter(options))):
        make_selector("svd", **options)
