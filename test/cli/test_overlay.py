# SPDX-License-Identifier: Apache-2.0
"""The drawing of kept patches."""

from __future__ import annotations

import numpy as np
import pytest

from svd_vlm_ros.overlay import MAX_LINES, draw_overlay, wrap_text


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((120, 160, 3), 200, np.uint8)


def test_kept_patches_stay_and_the_rest_is_dimmed(grey: np.ndarray) -> None:
    before = grey.copy()
    drawn = draw_overlay(grey, [(40, 30, 80, 60)], dim=0.5, min_width=0)
    assert drawn.shape == grey.shape
    assert drawn.dtype == np.uint8
    assert (drawn[32:58, 42:78] == 200).all()
    assert (drawn[:28] == 100).all()
    assert (drawn[:, 84:] == 100).all()
    assert (grey == before).all()


def test_boxes_outside_of_the_image_are_cut_off(grey: np.ndarray) -> None:
    drawn = draw_overlay(grey, [(-50, -50, 10, 10), (150, 110, 900, 900)], min_width=0)
    assert (drawn[2:8, 2:8] == 200).all()
    assert (drawn[113:118, 153:158] == 200).all()
    assert drawn[60, 80, 0] < 200


def test_no_kept_patch_and_all_kept(grey: np.ndarray) -> None:
    assert draw_overlay(grey, [], min_width=0).max() < 200
    assert (draw_overlay(grey, [(0, 0, 160, 120)], min_width=0)[5:-5, 5:-5] == 200).all()


def test_small_images_are_enlarged_and_text_makes_a_band(grey: np.ndarray) -> None:
    bare = draw_overlay(grey, [(0, 0, 80, 60)])
    assert bare.shape == (480, 640, 3)
    written = draw_overlay(grey, [(0, 0, 80, 60)], "what is it?", "a grey wall")
    assert written.shape[1] == 640
    assert written.shape[0] > 480
    assert (written[:480] == bare).all()
    assert written[480:].max() > 200


def test_text_is_wrapped_cut_and_freed_of_what_the_font_lacks() -> None:
    lines = wrap_text("one two three four five six", 120, 0.6, 1)
    assert len(lines) > 1
    assert " ".join(lines) == "one two three four five six"
    assert "".join(wrap_text("x" * 50, 120, 0.6, 1)) == "x" * 50
    many = wrap_text("word " * 500, 120, 0.6, 1)
    assert len(many) == MAX_LINES
    assert many[-1].endswith("...")
    assert wrap_text("éa\n\tb 漢", 600, 0.6, 1) == ["ea b ?"]
    assert wrap_text("", 600, 0.6, 1) == []
