# SPDX-License-Identifier: Apache-2.0
"""The questions: one true answer each, checked by a second reading of the scene, in words that the
tokenizer has.
"""

import re
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from svd_vlm_ros.scout.architecture import UNK, tokenizer
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.questions import (
    PLURALS,
    QUESTION_KINDS,
    describe,
    questions,
    standard_questions,
)
from svd_vlm_ros.scout.world import COLORS, KINDS, sample_scene

seeds = st.integers(0, 2**31)
NAME = rf"(?:(?P<c>{'|'.join(COLORS)}) )?(?P<k>{'|'.join(KINDS)})"


def matching(scene, name):
    words = name.split()
    return [o for o in scene.objects if o.kind == words[-1] and words[:-1] in ([], [o.color])]


def check(scene, question):
    """The answer once more, from the words of the question."""
    text = question.text
    names = [m.group(0) for m in re.finditer(NAME, text)]
    if question.kind in ("exists", "exists color"):
        assert question.answer == ("yes" if matching(scene, names[0]) else "no")
    elif question.kind == "count":
        plural = next(p for p in [*PLURALS.values(), "objects"] if re.search(rf"\b{p}\b", text))
        kinds = [o.kind for o in scene.objects if plural == "objects" or PLURALS[o.kind] == plural]
        assert question.answer == str(len(kinds))
    elif question.kind == "color":
        assert [o.color for o in matching(scene, names[0])] == [question.answer]
    elif question.kind == "where":
        assert [o.side for o in matching(scene, names[0])] == [question.answer]
    elif question.kind == "left of":
        (a,), (b,) = matching(scene, names[0]), matching(scene, names[1])
        first, second = (a, b) if "left" in text else (b, a)
        assert question.answer == ("yes" if first.x < second.x else "no")
    elif question.kind == "nearest":
        lowest = sorted(scene.objects, key=lambda o: o.base)[-1]
        assert question.answer.split()[1:] == [lowest.color, lowest.kind]
    elif question.kind == "absent":
        assert not matching(scene, question.answer.split()[-1])
    elif question.kind == "path":
        blocked = any(scene.blocks(o) for o in scene.objects)
        asks_blocked = any(w in text for w in ("blocked", "something", "anything", "obstacle"))
        assert question.answer == ("yes" if blocked == asks_blocked else "no")
    elif question.kind == "sign":
        assert int(question.answer) in [o.number for o in scene.objects if o.kind == "sign"]


@given(seeds)
def test_answers_are_true(seed):
    scene = sample_scene(seed)
    asked = questions(scene, np.random.default_rng(seed))
    for question in asked:
        check(scene, question)
    assert asked == questions(scene, np.random.default_rng(seed))


@given(st.floats(0, 60), st.integers(0, 50))
def test_answers_are_true_along_a_drive(t, seed):
    scene = drive(t, seed)
    asked = standard_questions(scene)
    for question in asked:
        check(scene, question)
    kinds = [question.kind for question in asked]
    assert len(kinds) == len(set(kinds))


def test_yes_and_no_are_even():
    answers = {kind: Counter() for kind in QUESTION_KINDS}
    for seed in range(600):
        for question in questions(sample_scene(seed), np.random.default_rng(seed)):
            answers[question.kind][question.answer] += 1
    for kind in ("exists", "exists color", "left of", "path"):
        assert 0.4 < answers[kind]["yes"] / answers[kind].total() < 0.6, kind
    assert set(answers) == {kind for kind, found in answers.items() if found}


def test_describe_names_everything_from_left_to_right():
    scene = sample_scene(4)
    sentence = describe(scene)
    places = [
        sentence.index(f"{o.color} {o.kind}") for o in sorted(scene.objects, key=lambda o: o.x)
    ]
    assert places == sorted(places)
    assert scene.ground in sentence
    assert f"{scene.sky} sky" in sentence


def test_the_tokenizer_has_every_word():
    made = tokenizer()
    for seed in range(200):
        for question in questions(sample_scene(seed), np.random.default_rng(seed)):
            for text in (question.text, question.text.upper().rstrip("?")):
                ids = made.encode(text).ids
                assert UNK not in ids
                whole = [t for t in made.encode(text).tokens if not t.startswith("##")]
                assert len(whole) == len(re.findall(r"\w+|[^\w\s]", text)) + 1
            back = made.decode(made.encode(question.answer, add_special_tokens=False).ids)
            assert back == question.answer
