# SPDX-License-Identifier: Apache-2.0
"""Scores worked out by hand from the official scripts' rules."""

import pytest

from svd_vlm_ros.evaluation.scoring import (
    CONTRACTIONS,
    gqa_form,
    gqa_score,
    vqa_accuracy,
    vqa_form,
)


@pytest.mark.parametrize(
    ("given", "true", "score"),
    [
        ("yes", "yes", 1.0),
        ("Yes.", "yes", 1.0),
        (" Yes. ", "yes", 1.0),
        ("yes...", "yes", 1.0),
        ("no", "yes", 0.0),
        ("yes, it is", "yes", 0.0),  # exact match: nothing is searched for
        ("the left", "left", 0.0),  # articles stay: that is VQA's rule, not GQA's
        ("two", "2", 0.0),
        ("", "yes", 0.0),
    ],
)
def test_gqa_is_exact_but_for_capitals_and_full_stops(given: str, true: str, score: float) -> None:
    assert gqa_score(given, true) == score


def test_gqa_keeps_what_stands_inside() -> None:
    assert gqa_form("St. Mary") == "st. mary"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Yes.", "yes"),
        ("two", "2"),
        ("Ten dogs", "10 dogs"),
        ("none", "0"),
        ("eleven", "eleven"),  # the table ends at ten
        ("The red car", "red car"),
        ("a an the", ""),
        ("dont", "don't"),
        ("Couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),  # one lost apostrophe comes back, two do not
        ("ow's'at", "ow 's'at"),  # 's is parted first
        ("its", "its"),  # not a contraction in the official table
        ("lets", "lets"),
        ("somebody'd", "somebodyd"),  # the table's one entry that goes the other way
        ("dog's", "dog 's"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("5.", "5"),
        ("U.S.A.", "usa"),
        ("what?", "what"),
        ("stop-sign", "stop sign"),  # no blank beside the mark: it becomes one
        ("stop - sign", "stop sign"),
        ("coca-cola!", "coca cola"),
        ("well- known-fact", "well knownfact"),  # one blank beside a mark, all of them go
        ("$5", "$5"),  # not in the list of marks
        ("new\nline\ttab", "new line tab"),
        ("  blue  ", "blue"),
    ],
)
def test_vqa_normalises_as_the_official_script(text: str, form: str) -> None:
    assert vqa_form(text) == form


def test_every_contraction_is_mended() -> None:
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["yall'd've"] == CONTRACTIONS["y'alld've"] == "y'all'd've"
    assert {"wont", "cant", "oclock", "maam", "twas", "theyre"} <= set(CONTRACTIONS)


@pytest.mark.parametrize(
    ("agreeing", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_vqa_accuracy_by_how_many_of_ten_agree(agreeing: int, accuracy: float) -> None:
    annotators = ["nokia"] * agreeing + [f"other {n}" for n in range(10 - agreeing)]
    assert vqa_accuracy("Nokia.", annotators) == pytest.approx(accuracy)


def test_vqa_accuracy_is_the_mean_over_annotators_left_out() -> None:
    annotators = ["two", "2", "2", *["three"] * 7]

    def slowly(answer: str) -> float:
        forms = [vqa_form(text) for text in annotators]
        scores = []
        for out in range(10):
            others = forms[:out] + forms[out + 1 :]
            scores.append(min(1.0, others.count(vqa_form(answer)) / 3))
        return sum(scores) / 10

    for answer in ("2", "Two.", "three", "four"):
        assert vqa_accuracy(answer, annotators) == pytest.approx(slowly(answer))
    assert vqa_accuracy("two", annotators) == pytest.approx(0.9)


def test_vqa_accuracy_wants_ten_annotators() -> None:
    with pytest.raises(ValueError, match="10 answers, not 3"):
        vqa_accuracy("yes", ["yes"] * 3)
