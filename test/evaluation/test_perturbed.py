# SPDX-License-Identifier: Apache-2.0
"""Corrupted images and other wordings: the same for the same seed, worse with the severity."""

import re

import numpy as np
import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.corruptions import CORRUPTIONS, corrupt
from svd_vlm_ros.evaluation.rephrase import rephrase
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import sample_scene

IMAGE = render(sample_scene(20_000_001))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity(name: str) -> None:
    before = IMAGE.copy()
    far = []
    for severity in (1, 3, 5):
        changed = corrupt(IMAGE, name, severity, "7/a")
        assert changed.dtype == np.uint8
        assert changed.shape == IMAGE.shape
        far.append(np.abs(changed.astype(int) - IMAGE).mean())
    assert far[0] > 0.5  # it can be seen
    assert far[0] < far[1] < far[2]
    assert np.array_equal(IMAGE, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_depends_on_its_seed_alone(name: str) -> None:
    small = IMAGE[:60, :90]
    assert np.array_equal(corrupt(small, name, 3, "1"), corrupt(small, name, 3, "1"))
    if name in ("gaussian_noise", "shot_noise", "impulse_noise", "fog", "snow", "motion_blur"):
        assert not np.array_equal(corrupt(small, name, 3, "1"), corrupt(small, name, 3, "2"))


def test_unknown_corruptions_are_refused() -> None:
    with pytest.raises(UserError, match="no corruption 'rain'"):
        corrupt(IMAGE, "rain", 1, "")
    with pytest.raises(UserError, match="severity is 1 to 5, not 6"):
        corrupt(IMAGE, "fog", 6, "")


QUESTIONS = (
    "what color is the car?",
    "Is there a red cone?",
    "how many barrels are there?",
    "Is the cone to the left of the tree?",
    "what does the sign say?",
    "Who?",
)


@pytest.mark.parametrize("question", QUESTIONS)
def test_another_wording_is_another_and_always_the_same(question: str) -> None:
    wordings = {rephrase(question, f"{seed}/q") for seed in range(60)}
    assert question not in wordings
    assert len(wordings) > 15 or question == "Who?"
    assert wordings == {rephrase(question, f"{seed}/q") for seed in range(60)}
    assert all(wording.strip() for wording in wordings)


def test_left_stays_left_and_numbers_stay() -> None:
    for seed in range(200):
        wording = rephrase("is the cone to the left of the tree?", str(seed)).lower()
        assert "right" not in wording
        assert "42" in rephrase("does the sign say 42?", str(seed))


def test_most_words_stay() -> None:
    for seed in range(200):
        words = set(
            re.findall("[a-z]+", rephrase("what color is the yellow barrel?", f"{seed}").lower())
        )
        assert len({"yellow", "barrel"} - words) <= 1
