# SPDX-License-Identifier: Apache-2.0
"""Is an answer right? By the rules of the official scripts, as their published code applies them.

GQA: exact match after LLaVA-1.5's conversion for the official script (capitals and full stops at
the end go). TextVQA: the VQA accuracy with the normalisation of EvalAI, as LLaVA-1.5 scores it.
Written from the rules; `test/evaluation/test_scoring.py` holds the cases worked out by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SCORING_VERSION = 1
"""Goes up with every change of a rule, so that answers scored by two rules are never mixed."""

ANNOTATORS = 10

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})

# A word that lost one of its apostrophes gets it back: of "couldn't've" both "couldnt've" and
# "couldn'tve" are known, "couldntve" is not. That is the whole rule behind the official table, but
# for one entry, which stands the other way round there.
_WITH_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word
    for word in _WITH_APOSTROPHES.split()
    for at, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# Written with a look-behind in mind, it has none: every full stop goes that no digit follows.
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_FULL_STOPS = 32  # the official scripts pass a flag in the place of a count: re.UNICODE
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")


def gqa_form(text: str) -> str:
    """An answer as it is compared in GQA: "Yes." becomes "yes"; nothing else changes."""
    return text.strip().rstrip(".").lower()


def gqa_score(given: str, true: str) -> float:
    """1.0 if the answer is exactly the true one after `gqa_form`, else 0.0."""
    return float(gqa_form(given) == true)


def vqa_form(text: str) -> str:
    """An answer as it is compared in TextVQA.

    Lower case; commas and question marks go; "'s" becomes a word of its own; a punctuation mark
    that touches a blank somewhere goes, others become blanks; full stops go that no digit follows;
    number words up to ten become digits; articles go; lost apostrophes come back.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words = (NUMBER_WORDS.get(word, word) for word in _without_punctuation(text).split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    number = _COMMA_IN_NUMBER.search(text) is not None
    bare = text
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_blank or number else " ")
    return _FULL_STOP.sub("", bare, count=_MOST_FULL_STOPS)


def vqa_accuracy(given: str, annotators: Sequence[str]) -> float:
    """The VQA accuracy of an answer: the mean over ten annotators of min(1, agreeing others / 3).

    So 0, 1, 2, 3 and 4 annotators out of ten with the same answer give 0, 0.3, 0.6, 0.9 and 1.

    Args:
        given: the model's answer.
        annotators: ten answers, as they are in the data set.
    """
    if len(annotators) != ANNOTATORS:
        raise ValueError(f"the VQA accuracy takes {ANNOTATORS} answers, not {len(annotators)}")
    answer = vqa_form(given)
    agreeing = sum(vqa_form(other) == answer for other in annotators)
    # Of an agreeing annotator's nine others one less agrees than of another's.
    among = agreeing * min(1.0, (agreeing - 1) / 3) if agreeing else 0.0
    return (among + (ANNOTATORS - agreeing) * min(1.0, agreeing / 3)) / ANNOTATORS
