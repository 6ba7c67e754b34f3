# SPDX-License-Identifier: Apache-2.0
"""Leverage-weighted coverage against a plain reading of its rule, and its adaptive budget."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection import Budget, VisualFeatures, make_selector
from svd_vlm_ros.selection.svd_cover import ridge_leverage, to_inverse_factor

GRID = (4, 6)
COUNT = 24


def by_hand(patches, beta, ridge):
    """Weights [n] and similarities [n][n], as lists."""
    full = patches.double().numpy()
    moved = full - full.mean(axis=0)
    u, s, _ = np.linalg.svd(moved, full_matrices=False)
    soft = ridge * sum(float(row @ row) for row in moved) / COUNT
    leverage = [sum(x**2 * e / (e + soft) for x, e in zip(row, s**2, strict=True)) for row in u]
    weights = [(1 - beta) / COUNT + beta * float(x) / sum(leverage) for x in leverage]
    lengths = [math.sqrt(float(row @ row)) for row in full]
    like = [
        [max(0.0, float(full[i] @ full[j]) / (lengths[i] * lengths[j])) for j in range(COUNT)]
        for i in range(COUNT)
    ]
    return weights, like


def covered(weights, like, chosen):
    return sum(weights[i] * max(like[i][j] for j in chosen) for i in range(COUNT))


def greedily(weights, like, enough):
    chosen = []
    while not enough(chosen):
        left = [j for j in range(COUNT) if j not in chosen]
        chosen.append(max(left, key=lambda j: covered(weights, like, [*chosen, j])))
    return sorted(chosen)


@pytest.mark.parametrize(
    "options",
    [{}, {"beta": 0.0}, {"beta": 1.0, "ridge": 0.2}, {"beta": 0.6, "ridge": 30.0}],
)
@pytest.mark.parametrize("budget", [1, 2, 5, 12, 23, 24])
def test_it_keeps_what_covers(make_features, options, budget):
    features = make_features(3, GRID)
    given_ = {"beta": 0.3, "ridge": 1.0} | options
    weights, like = by_hand(features.patches, **given_)
    chosen = make_selector("svd-cover", **options)(features, Budget(budget))
    wanted = greedily(weights, like, lambda found: len(found) == budget)
    assert chosen.indices.tolist() == wanted


@pytest.mark.parametrize(("rows", "columns"), [(2, 5), (73, 40), (145, 300), (577, 1024)])
def test_ridge_leverage_is_that_of_the_decomposition(rows, columns):
    generator = torch.Generator().manual_seed(rows)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64) + 3.0
    moved = (matrix - matrix.mean(dim=0)).numpy()
    u, s, _ = np.linalg.svd(moved, full_matrices=False)
    soft = 0.5 * float((moved**2).sum()) / rows
    wanted = (u**2 * (s**2 / (s**2 + soft))).sum(axis=1)
    found = ridge_leverage(matrix @ matrix.T, 0.5)
    assert np.abs(found.numpy() - wanted).max() < 1e-12


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 300), seed=st.integers(0, 1000))
def test_the_inverse_of_a_factor_is_made_in_place_from_the_lower_triangle(count, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, count, generator=generator, dtype=torch.float64)
    matrix = rows @ rows.T / count + torch.eye(count, dtype=torch.float64)
    made = matrix.tril()
    inverse = to_inverse_factor(made)
    assert inverse is made
    assert torch.equal(inverse, inverse.tril())
    factor = torch.linalg.cholesky(matrix)
    assert (inverse @ factor - torch.eye(count, dtype=torch.float64)).abs().max() < 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), energy=st.floats(0.05, 1.0))
def test_an_energy_is_a_share_of_the_image_that_is_covered(make_features, seed, energy):
    features = make_features(seed, GRID)
    weights, like = by_hand(features.patches, 0.3, 1.0)
    chosen = make_selector("svd-cover")(features, Budget(COUNT, energy)).indices.tolist()
    wanted = greedily(weights, like, lambda k: k and covered(weights, like, k) >= energy - 1e-9)
    assert chosen == wanted


def test_a_rare_thing_and_the_rest_are_both_seen():
    """Leverage alone gives a small budget to the rare thing; coverage alone comes to it last."""
    generator = torch.Generator().manual_seed(0)
    grass, sky, sign = torch.eye(12)[:3]
    rows = torch.stack([*[grass] * 30, *[sky] * 25, *[sign] * 5]) * 4
    patches = rows + 0.3 * torch.randn(60, 12, generator=generator)
    features = VisualFeatures(patches, (6, 10))
    shows = lambda i: "grass" if i < 30 else "sky" if i < 55 else "sign"  # noqa: E731
    seen = {
        name: {shows(i) for i in make_selector(name)(features, Budget(3)).indices.tolist()}
        for name in ("svd", "svd-cover")
    }
    assert seen["svd-cover"] == {"grass", "sky", "sign"}
    assert seen["svd"] == {"sign"}


@pytest.mark.parametrize("options", [{"beta": 1.5}, {"beta": -0.1}, {"ridge": 0.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=r"svd-cover selector's .* must be"):
        make_selector("svd-cover", **options)
