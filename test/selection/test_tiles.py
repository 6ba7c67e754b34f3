# SPDX-License-Identifier: Apache-2.0
"""How a thumbnail and tiles share a budget."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_vlm_ros.selection import Budget, VisualFeatures, make_selector
from svd_vlm_ros.selection.tiles import select_patches
from svd_vlm_ros.selection.tokens import merged_rows

THUMBNAIL, TILES = (3, 3), ((4, 4), (4, 2))


def image(seed, thumbnail, valid=True):
    generator = torch.Generator().manual_seed(seed)
    tiles = (THUMBNAIL, *TILES) if thumbnail == 0 else (*TILES, THUMBNAIL)
    count = sum(rows * columns for rows, columns in tiles)
    shown = None
    if not valid:
        shown = torch.rand(count, generator=generator) > 0.3
        shown[::5] = True
    return VisualFeatures(
        torch.randn(count, 12, generator=generator),
        None,
        shown,
        class_attention=torch.rand(2, count, generator=generator),
        keys=torch.randn(count, 4, generator=generator),
        tiles=tiles,
        thumbnail=len(tiles) - 1 if thumbnail else 0,
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 1]), st.integers(1, 40), st.booleans())
def test_the_parts_are_chosen_apart_and_fill_the_budget(seed, thumbnail, tokens, valid):
    features = image(seed, thumbnail, valid)
    count = len(features)
    chosen = select_patches(make_selector("svd"), features, Budget(tokens))
    kept = chosen.indices.tolist()
    assert kept == sorted(set(kept))
    assert features.valid is None or bool(features.valid[chosen.indices].all())
    if features.valid is None:
        assert len(kept) == min(tokens, count)
        small = [i for i in kept if (i < 9 if thumbnail == 0 else i >= count - 9)]
        assert len(small) == max(1, min(tokens, count) * 9 // count)
    assert float(chosen.scores.sum()) == pytest.approx(1.0, abs=1e-5)
    alone = VisualFeatures(
        features.patches[:9] if thumbnail == 0 else features.patches[-9:],
        THUMBNAIL,
        None if features.valid is None else features.valid[:9],
    )
    if features.valid is None:
        share = max(1, min(tokens, count) * 9 // count)
        wanted = make_selector("svd")(alone, Budget(share)).indices + (0 if thumbnail == 0 else 24)
        assert set(wanted.tolist()) <= set(kept)


@pytest.mark.parametrize("thumbnail", [0, 1])
def test_merged_tokens_are_made_of_their_own_parts_patches(thumbnail):
    features = image(3, thumbnail)
    chosen = select_patches(make_selector("visionzip"), features, Budget(12))
    merge = chosen.merge.to_dense()
    small = torch.zeros(len(features), dtype=torch.bool)
    small[(slice(None, 9) if thumbnail == 0 else slice(-9, None))] = True
    for row, index in zip(merge[:, 1:], chosen.indices.tolist(), strict=True):
        assert not bool((row != 0)[small != small[index]].any())
    rows = merged_rows(features.patches, chosen)
    assert torch.allclose(rows, merge[:, 1:] @ features.patches, atol=1e-5)


def test_an_image_without_tiles_is_left_to_the_selector():
    features = VisualFeatures(
        torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), (4, 5)
    )
    selector = make_selector("svd")
    found = select_patches(selector, features, Budget(7)).indices
    assert found.tolist() == selector(features, Budget(7)).indices.tolist()


def test_an_energy_is_that_of_each_part():
    features = image(5, 0)
    few = select_patches(make_selector("svd"), features, Budget(30, 0.3))
    many = select_patches(make_selector("svd"), features, Budget(30, 0.9))
    assert len(few) < len(many) <= 30
