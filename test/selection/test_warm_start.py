# SPDX-License-Identifier: Apache-2.0
"""`svd` with `warm_start` keeps on every stream what it keeps without."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.selection import Budget, VisualFeatures, make_selector
from svd_vlm_ros.selection import warm as warm_module
from svd_vlm_ros.selection.leverage import ENERGY_RESOLUTION
from svd_vlm_ros.selection.svd import SvdPrune
from svd_vlm_ros.selection.warm import TOLERANCE, largest_angle, nothing_above

SOME = (Budget(32),)
BUDGETS = (Budget(1), Budget(16), Budget(40), Budget(500), Budget(30, 0.6), Budget(200, 0.9))


def features(matrix, valid=None):
    return VisualFeatures(matrix, (1, len(matrix)), valid)


def stream(rows, columns, decay, steps, seed=0):
    """Matrices of falling spectra; a step is how much of the next is new, 1 all of it."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    rank = min(rows, columns)
    left, right = normal(rows, rank), normal(rank, columns)
    for step in (0.0, *steps):
        stay = (1 - step**2) ** 0.5
        left = stay * left + step * normal(rows, rank)
        right = stay * right + step * normal(rank, columns)
        yield left * decay ** torch.arange(rank) @ right


def same_as_exact(images, budgets=SOME, **options):
    """Go through a stream with both, and compare; what the warm one counted."""
    warm, exact = SvdPrune(**options, warm_start=True), SvdPrune(**options)
    for number, shown in enumerate(images):
        image = shown if isinstance(shown, VisualFeatures) else features(shown)
        budget = budgets[number % len(budgets)]
        found, wanted = warm(image, budget), exact(image, budget)
        assert found.indices.tolist() == wanted.indices.tolist(), f"image {number}"
        torch.testing.assert_close(found.scores, wanted.scores, atol=TOLERANCE, rtol=0)
    return warm.warm.accepted, warm.warm.fallen_back


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(96, 130), (100, 100), (150, 90)]),
    decay=st.sampled_from([0.5, 0.8, 0.9, 0.97]),
    steps=st.lists(st.sampled_from([0.0, 1e-9, 1e-4, 0.01, 0.1, 0.5, 1.0]), max_size=6),
    budgets=st.lists(st.sampled_from(BUDGETS), min_size=1, max_size=4),
    rank=st.sampled_from(["energy", "budget"]),
    rank_energy=st.sampled_from([0.5, 0.9, 0.999, 1.0]),
    centre=st.booleans(),
)
def test_any_stream_keeps_the_same(seed, shape, decay, steps, budgets, rank, rank_energy, centre):
    same_as_exact(
        stream(*shape, decay, steps, seed),
        budgets,
        rank=rank,
        rank_energy=rank_energy,
        centre=centre,
    )


@pytest.mark.parametrize("shape", [(160, 240), (240, 160)])
def test_small_steps_are_accepted(shape):
    accepted, fallen_back = same_as_exact(stream(*shape, 0.9, [0.01] * 8))
    assert (accepted, fallen_back) == (8, 0)


def test_at_the_size_of_clip_small_steps_are_accepted():
    images = (matrix.bfloat16() for matrix in stream(576, 1024, 0.98, [0.01, 0.0, 0.05]))
    assert same_as_exact(images, (Budget(64),)) == (3, 0)


def test_a_stream_that_becomes_richer_falls_back():
    images = [*stream(120, 200, 0.5, [0.01]), *stream(120, 200, 0.9, [0.01], seed=1)]
    accepted, fallen_back = same_as_exact(images)
    assert accepted >= 2  # the second image, and the last: of the third the basis is remembered
    assert fallen_back == 1


def test_a_repeated_image_is_accepted_for_ever():
    (image,) = stream(100, 120, 0.8, [])
    assert same_as_exact([image] * 50) == (49, 0)


def test_a_tie_across_the_border_falls_back():
    half = next(iter(stream(60, 200, 0.7, [])))
    twins = half.repeat_interleave(2, dim=0)  # patches 2i and 2i + 1 are the same
    assert same_as_exact([twins] * 4, (Budget(15),)) == (0, 3)
    assert same_as_exact([twins] * 4, (Budget(16),)) == (3, 0)


@pytest.mark.parametrize("shape", [(96, 130), (130, 96)])
def test_rank_deficient_matrices(shape):
    generator = torch.Generator().manual_seed(0)
    thin = torch.randn(shape[0], 5, generator=generator)
    images = [
        (thin + step * 0.01) @ torch.randn(5, shape[1], generator=generator) for step in range(5)
    ]
    same_as_exact(images, BUDGETS)
    same_as_exact(images, BUDGETS, rank_energy=1.0)
    same_as_exact(images, BUDGETS, centre=True)


@pytest.mark.parametrize("centre", [False, True])
def test_images_without_contrast_are_no_fault(centre):
    (image,) = stream(100, 120, 0.8, [])
    flat = torch.full((100, 120), 3.0)
    same_as_exact([image, 0 * image, flat, image, image, flat, flat], centre=centre)


def test_another_mask_or_size_is_not_tried():
    images = list(stream(160, 240, 0.8, [0.01] * 3))
    few, fewer = torch.ones(160, dtype=torch.bool), torch.ones(160, dtype=torch.bool)
    few[:20], fewer[:30] = False, False
    shown = [features(images[0]), features(images[1], few), features(images[2], fewer)]
    assert same_as_exact(shown) == (0, 0)
    assert same_as_exact([*shown, features(images[3], fewer)]) == (1, 0)
    # As many patches, but others: what is remembered does not fit, and that is found out.
    others = fewer.flip(0)
    assert sum(same_as_exact([shown[2], features(images[2], others)])) == 1


def test_a_subspace_of_many_directions_is_not_tried():
    assert same_as_exact(stream(100, 120, 0.999, [0.001] * 3)) == (0, 0)


def test_a_cleared_memory_begins_anew():
    select = SvdPrune(warm_start=True)
    for image in stream(100, 120, 0.8, [0.01]):
        select(features(image), Budget(9))
        select.warm.clear()
    assert (select.warm.accepted, select.warm.fallen_back) == (0, 0)


def test_a_new_direction_beside_the_remembered_ones_is_not_missed():
    """The remembered directions are still exact eigenvectors: only the certificate shows it."""
    strength = torch.zeros(120)
    strength[:30] = 0.8 ** torch.arange(30)
    before, after = torch.diag(strength), torch.diag(strength)
    after[100, 100] = 2.0
    options = {"rank": "budget", "rank_energy": 0.5}
    assert same_as_exact([before, after], (Budget(1),), **options) == (0, 1)
    products = after @ after
    top = torch.eye(120)[:, :1]
    assert nothing_above(4.01, products, top, products @ top, strength[:1] ** 2)
    assert not nothing_above(0.9, products, top, products @ top, strength[:1] ** 2)


@pytest.mark.parametrize("off", [-3e-14, 3e-14])
def test_a_rank_on_the_edge_is_left_to_the_exact_way(off):
    energies = 0.7 ** torch.arange(120, dtype=torch.float64)
    share = float(energies[:5].sum() / energies.sum()) + ENERGY_RESOLUTION
    generator = torch.Generator().manual_seed(0)
    mixed = torch.linalg.qr(torch.randn(120, 120, generator=generator, dtype=torch.float64)).Q
    image = mixed * energies.sqrt()
    options = {"rank_energy": share + off}
    assert same_as_exact([image] * 2, **options) == (0, 1)
    assert same_as_exact([image] * 2, rank_energy=share + 1e-9) == (1, 0)


@pytest.mark.parametrize("off", [-1e-7, 1e-7])
def test_an_energy_that_is_hardly_reached_allows_hardly_any_angle(off):
    lengths = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    # Of one direction turned by a small angle a, the first two change by 2 sqrt(0.8 * 0.2) a.
    assert 1e-8 < largest_angle(lengths, Budget(4, 0.8 + off)) < 1e-7 / 0.8
    assert largest_angle(lengths, Budget(2, 0.8 + 1e-7)) > 1e-7  # the cap keeps two of them anyway


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rank=st.integers(1, 12),
    budget=st.sampled_from([Budget(1), Budget(7), Budget(39), Budget(30, 0.5), Budget(40, 0.99)]),
)
def test_a_subspace_within_the_angle_keeps_the_same(seed, rank, budget):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def kept(basis):
        order = (basis.square().sum(dim=1) / rank).sort(descending=True)
        reach = budget.energy if budget.energy is not None else 2.0
        enough = int((order.values.cumsum(0) < reach).sum()) + 1
        return set(order.indices[: min(budget.tokens, enough)].tolist())

    basis = torch.linalg.qr(normal(40, rank)).Q
    lengths = basis.square().sum(dim=1)
    with pytest.MonkeyPatch.context() as patch:  # let nothing bound the angle but what is kept
        patch.setattr(warm_module, "TOLERANCE", 1.0)
        patch.setattr(warm_module, "LARGEST_ANGLE", 0.1)
        angle = largest_angle(lengths, budget)
    assert 0.0 <= angle <= 0.1
    order = lengths.argsort(descending=True)
    count = len(kept(basis))
    for low, high in ((order[min(count, 39) - 1], order[min(count, 39)]), (order[0], order[39])):
        # Turned so that of two patches the one loses, and the other gains, what is possible.
        for target in (torch.eye(40)[high] - torch.eye(40)[low], normal(40)):
            away = target.double() - basis @ (basis.T @ target.double())
            along = basis.T @ (torch.eye(40)[low] + torch.eye(40)[high]).double()
            away, along = away / away.norm(), along / along.norm()
            sine = 0.999 * angle
            turned = basis + torch.outer(
                sine * away + ((1 - sine**2) ** 0.5 - 1) * (basis @ along), along
            )
            assert kept(turned) == kept(basis)


def test_where_scores_are_equal_no_angle_will_do():
    assert largest_angle(torch.full((10,), 0.3, dtype=torch.float64), Budget(4)) == 0.0
    assert largest_angle(torch.full((10,), 0.3, dtype=torch.float64), Budget(10)) > 0.0


def test_each_selector_has_its_own_memory():
    one, other = (make_selector("svd", warm_start=True) for _ in range(2))
    assert one == other
    assert one.warm is one.warm
    assert one.warm is not other.warm


def test_wrong_options_are_named():
    with pytest.raises(UserError, match="warm_start is True or False, not 'yes'"):
        make_selector("svd", warm_start="yes")
    with pytest.raises(UserError, match="svd-pivoted selector has no warm_start: take svd"):
        make_selector("svd-pivoted", warm_start=True)


def test_scout_answers_the_same_along_a_drive():
    from svd_vlm_ros.engine import SceneEngine

    answers = {}
    for warm in (False, True):
        engine = SceneEngine.load(
            "scout",
            precision="fp32",
            selector="svd",
            visual_tokens=64,
            selector_options={"warm_start": warm},
        )
        answers[warm] = [
            (scene.selection.indices.tolist(), engine.describe(scene).text)
            for scene in (engine.see(render(drive(8.0 + 0.2 * step))) for step in range(6))
        ]
        counts = engine.selector.warm
        assert (counts.accepted > 3) == warm
        engine.close()
    assert answers[True] == answers[False]
