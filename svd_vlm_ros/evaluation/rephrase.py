# SPDX-License-Identifier: Apache-2.0
"""The same question as a person in a hurry types it, or as speech recognition hands it over.

Words of function are exchanged, filler words come in, capitals go or spread, and at most one longer
word gets a typing mistake. What is asked for stays the same: numbers are never touched, nor what
stands behind the question in the prompt. The same seed and question id give the same wording.
"""

from __future__ import annotations

import re
import zlib

import numpy as np

FILLERS = ("please, ", "um, ", "hey, ", "ok so ", "tell me, ", "quick question: ", "robot, ")
CLOSINGS = (" please", " exactly", ", i wonder", ", thanks", " here")

# Pairs of wordings that ask the same; either may stand for the other.
SYNONYMS = (
    (r"\bis there\b", ("do you see", "can you see", "is there")),
    (r"\b(?:do|can) you see\b", ("is there", "do you see", "can you see")),
    (r"\bwhat colou?r\b", ("which color", "what colour", "what color")),
    (r"\bwhich colou?r\b", ("what color", "which colour")),
    (r"\bwhat kind of\b", ("which kind of", "what sort of", "what type of")),
    (r"\bto the (left|right) of\b", (r"\1 of", r"on the \1 of")),
    (r"\bclosest to\b", ("nearest to", "closest to")),
    (r"\bnearest to\b", ("closest to", "nearest to")),
    (r"\bhow many\b", ("what number of", "how many")),
    (r"\b(picture|image|photo)\b", ("image", "photo", "picture")),
    (r"\bwhat is\b", ("what's", "what is")),
    (r"\bwhere is\b", ("where's", "where is")),
    (r"\bin front of\b", ("before", "in front of")),
)
LONG_ENOUGH = 5  # letters of a word that may get a typing mistake and still be read


def rephrase(question: str, seed: str) -> str:
    """Another wording of a question, never the same one.

    Args:
        question: plain text.
        seed: the question's id and the run's seed.
    """
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    changed = _synonyms(question, rng)
    if rng.random() < 0.5:
        changed = _mistyped(changed, rng)
    if rng.random() < 0.5 or changed == question:
        changed = FILLERS[rng.integers(len(FILLERS))] + changed[:1].lower() + changed[1:]
    if rng.random() < 0.25:
        mark = "?" if changed.endswith("?") else ""
        changed = changed.rstrip("?. ") + CLOSINGS[rng.integers(len(CLOSINGS))] + mark
    case = rng.random()
    if case < 0.25:
        changed = changed.lower()
    elif case < 0.35:
        changed = changed.upper()
    return changed


def _synonyms(text: str, rng: np.random.Generator) -> str:
    for pattern, wordings in SYNONYMS:
        found = re.search(pattern, text, re.IGNORECASE)
        if found is None:
            continue
        wording = wordings[rng.integers(len(wordings))]
        new = found.expand(wording)
        if found.group()[:1].isupper():
            new = new[:1].upper() + new[1:]
        return text[: found.start()] + new + text[found.end() :]
    return text


def _mistyped(text: str, rng: np.random.Generator) -> str:
    """One longer word with two letters swapped, one left out, or one typed twice."""
    words = [m for m in re.finditer(r"[A-Za-z]+", text) if len(m.group()) >= LONG_ENOUGH]
    if not words:
        return text
    word = words[rng.integers(len(words))]
    at = word.start() + int(rng.integers(1, len(word.group()) - 2))
    how = rng.integers(3)
    if how == 0:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :] if how == 1 else text[:at] + text[at] + text[at:]
