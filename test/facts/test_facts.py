# SPDX-License-Identifier: Apache-2.0
"""Standing questions: their form, and when a value changes."""

from __future__ import annotations

import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.facts import Fact, FactTracker, check_fact, parse_fact

PATH = Fact("path", "is the path clear?")
YES, NO = (0.9, 0.1), (0.2, 0.8)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("path: is the path clear?", PATH),
        ("path: is the path clear? [yes, no]", PATH),
        (
            " ground :what is the ground? [ grass,dry sand ]",
            Fact("ground", "what is the ground?", ("grass", "dry sand")),
        ),
        ("a: which: x or y? [x, y]", Fact("a", "which: x or y?", ("x", "y"))),
    ],
)
def test_one_line(text: str, fact: Fact) -> None:
    assert parse_fact(text) == fact


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("is the path clear?", "name: question"),
        ("1st: is it?", "'1st'"),
        ("path: [yes, no]", "asks nothing"),
        ("path: is it? [yes]", "1 choices"),
        ("path: is it? [yes, yes]", "twice"),
        ("path: is it? [yes, ]", "empty choice"),
        ("path: is\x07 it?", "control characters"),
        ("path: " + "x" * 2001, "too long"),
    ],
)
def test_impossible_facts(text: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        parse_fact(text)


def test_blanks_are_dropped() -> None:
    assert check_fact(Fact("path", " is the path clear? ", (" yes", "no "))) == PATH


def values(tracker: FactTracker, *seen: tuple[float, float]) -> list[tuple[str, bool]]:
    return [(got.value, got.changed) for got in (tracker.update(PATH, each) for each in seen)]


def test_the_first_answer_is_the_value_and_no_change() -> None:
    first = FactTracker(3).update(PATH, NO)
    assert (first.value, first.previous, first.changed, first.is_news) == ("no", "", False, True)
    assert first.probabilities == NO


def test_a_value_changes_after_so_many_images_in_a_row() -> None:
    tracker = FactTracker(2)
    assert values(tracker, YES, NO, YES, NO, YES) == [("yes", False)] * 5, "never twice in a row"
    assert values(tracker, NO, NO, NO) == [("yes", False), ("no", True), ("no", False)]


def test_an_image_that_is_asked_again_counts_once() -> None:
    tracker = FactTracker(2)
    images = [(1, YES), (2, NO), (2, NO), (2, NO), (3, NO), (3, YES)]
    found = [tracker.update(PATH, probabilities, image) for image, probabilities in images]
    assert [one.value for one in found] == ["yes", "yes", "yes", "yes", "no", "no"]
    assert [one.is_news for one in found] == [True, False, False, False, True, False]
    assert found[-1].probabilities == YES


def test_one_image_is_enough_if_one_says_so() -> None:
    assert values(FactTracker(1), YES, NO, YES) == [("yes", False), ("no", True), ("yes", True)]


def test_a_third_answer_begins_to_count_anew() -> None:
    fact = Fact("ground", "what is it?", ("grass", "sand", "snow"))
    tracker = FactTracker(2)
    probabilities = {"grass": (1.0, 0.0, 0.0), "sand": (0.0, 1.0, 0.0), "snow": (0.0, 0.0, 1.0)}
    names = ("grass", "sand", "snow", "snow")
    settled = [tracker.update(fact, probabilities[name]).value for name in names]
    assert settled == ["grass", "grass", "grass", "snow"]


def test_another_question_is_another_fact() -> None:
    tracker = FactTracker(2)
    tracker.update(PATH, YES)
    other = Fact("path", "is the path free?")
    tracker.keep_only([other])
    assert tracker.update(other, NO).previous == ""
    assert tracker.update(PATH, NO).previous == ""
