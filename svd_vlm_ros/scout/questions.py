# SPDX-License-Identifier: Apache-2.0
"""What a person may ask about a scene of the world, with the one true answer; `wordings` has the
sentences.

Only questions with one answer are asked: "what color is the tree?" if there is one tree, "left of"
between two things that differ in kind, or in colour and kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np

from .wordings import PLURALS, WORDINGS, with_article
from .world import (
    KINDS,
    PALETTE,
    SIZE,
    WorldObject,
    WorldScene,
    clear_count,
    clear_order,
    clear_path_state,
    clear_side,
)

T = TypeVar("T")

# The nearest thing is asked for only if it leads by this many pixels.
NEAREST_MARGIN = 0.03 * SIZE

QUESTION_KINDS = (
    "exists",
    "exists color",
    "count",
    "color",
    "where",
    "left of",
    "nearest",
    "sign",
    "ground",
    "sky",
    "path",
    "absent",
    "describe",
)


@dataclass(frozen=True)
class Question:
    """One question with its answer. `kind` is the row of the accuracy table that it counts in."""

    kind: str
    text: str
    answer: str


def describe(scene: WorldScene) -> str:
    """The sentence that names ground, sky and every object with colour and side, from left to
    right.
    """
    places = {"left": "on the left", "center": "in the center", "right": "on the right"}
    parts = [
        f"{with_article(thing.name)} {places[thing.side]}"
        for thing in sorted(scene.objects, key=lambda thing: thing.x)
    ]
    start = f"{scene.ground} under {with_article(scene.sky)} sky"
    if not parts:
        return f"{start}."
    return f"{start} with {', '.join(parts)}."


def references(scene: WorldScene) -> list[tuple[str, WorldObject]]:
    """Names that mean one object of the scene: its kind if it is the only one, colour and kind
    if those are.
    """
    kinds = Counter(thing.kind for thing in scene.objects)
    names = Counter(thing.name for thing in scene.objects)
    found = []
    for thing in scene.objects:
        if kinds[thing.kind] == 1:
            found.append((thing.kind, thing))
        if names[thing.name] == 1:
            found.append((thing.name, thing))
    return found


def questions(scene: WorldScene, rng: np.random.Generator) -> list[Question]:
    """Questions about a scene, a handful of each kind that it allows, in random wordings.

    The same state of the generator gives the same list.
    """
    return [question for make in _MAKERS for question in make(scene, _Choice(rng))]


def standard_questions(scene: WorldScene) -> list[Question]:
    """At most one question of each kind, in its first wording, chosen by the scene's own seed."""
    choice = _Choice(np.random.default_rng((scene.seed, 7)), first_wording=True)
    found: dict[str, Question] = {}
    for make in _MAKERS:
        for question in make(scene, choice):
            found.setdefault(question.kind, question)
    return list(found.values())


@dataclass(frozen=True)
class _Choice:
    """Where the makers of questions get their random choices."""

    rng: np.random.Generator
    first_wording: bool = False

    def wording(self, options: tuple[str, ...]) -> str:
        return options[0 if self.first_wording else int(self.rng.integers(len(options)))]

    def one(self, options: Collection[str]) -> str:
        return str(self.rng.choice(sorted(options)))

    def toss(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def some(self, options: list[T], count: int) -> list[T]:
        return [options[i] for i in self.rng.permutation(len(options))[:count]]


def _ask(choice: _Choice, kind: str, wording: str, answer: str, **names: str) -> Question:
    text = choice.wording(WORDINGS[wording]).format(**names)
    if names.get("a", "x")[0] in "aeiou":
        text = text.replace(" a " + names["a"], " an " + names["a"])
    return Question(kind, text, answer)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _exists(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    present = {thing.kind for thing in scene.objects}
    missing = set(KINDS) - present
    if present:
        yield _ask(choice, "exists", "exists", "yes", a=choice.one(present))
    if missing:
        yield _ask(choice, "exists", "exists", "no", a=choice.one(missing))


def _exists_color(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    """The "no" names a near miss: a kind of the scene in another colour, or a colour on another
    kind.
    """
    names = {thing.name for thing in scene.objects}
    if names:
        yield _ask(choice, "exists color", "exists", "yes", a=choice.one(names))
    near = {f"{color} {o.kind}" for o in scene.objects for color in PALETTE[o.kind]}
    near |= {
        f"{o.color} {kind}" for o in scene.objects for kind in KINDS if o.color in PALETTE[kind]
    }
    if near - names:
        yield _ask(choice, "exists color", "exists", "no", a=choice.one(near - names))


def _count(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    if not clear_count(scene):
        return
    kinds = Counter(thing.kind for thing in scene.objects)
    asked = [choice.one(kinds)] if kinds else []
    if choice.toss(0.3):
        asked.append(choice.one(KINDS))
    for kind in asked:
        yield _ask(choice, "count", "count", str(kinds[kind]), s=PLURALS[kind])
    if len(scene.objects) <= 9:
        yield _ask(choice, "count", "count", str(len(scene.objects)), s="objects")


def _color(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    known = [(name, thing) for name, thing in references(scene) if name == thing.kind]
    for name, thing in choice.some(known, 2):
        yield _ask(choice, "color", "color", thing.color, a=name)


def _where(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    known = [(name, thing) for name, thing in references(scene) if clear_side(thing)]
    for name, thing in choice.some(known, 2):
        yield _ask(choice, "where", "where", thing.side, a=name)


def _left_of(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    known = references(scene)
    pairs = [(a, b) for a in known for b in known if clear_order(a[1], b[1])]
    for (name_a, a), (name_b, b) in choice.some(pairs, 2):
        left = choice.toss(0.5)
        wording = "left of" if left else "right of"
        yield _ask(choice, "left of", wording, _yes((a.x < b.x) == left), a=name_a, b=name_b)


def _nearest(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    bases = sorted((thing.base for thing in scene.objects), reverse=True)
    nearest = scene.nearest
    if nearest and (len(bases) == 1 or bases[0] - bases[1] >= NEAREST_MARGIN):
        yield _ask(choice, "nearest", "nearest", with_article(nearest.name))


def _sign(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    signs = [thing for thing in scene.objects if thing.kind == "sign"]
    names = Counter(thing.name for thing in signs)
    if not signs and choice.toss(0.15):
        yield _ask(choice, "absent", "sign", "there is no sign")
    for thing in signs:
        question = _ask(choice, "sign", "sign", f"{thing.number:02d}")
        if len(signs) == 1:
            yield question
        elif names[thing.name] == 1:
            yield replace(question, text=question.text.replace("the sign", f"the {thing.name}"))


def _ground(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    yield _ask(choice, "ground", "ground", scene.ground)


def _sky(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    yield _ask(choice, "sky", "sky", scene.sky)


def _path(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    if clear_path_state(scene):
        yield _ask(choice, "path", "path clear", _yes(scene.path_clear))
        yield _ask(choice, "path", "path blocked", _yes(not scene.path_clear))


def _absent(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    """Questions about what is not there: the answer says so."""
    missing = set(KINDS) - {thing.kind for thing in scene.objects}
    if missing and choice.toss(0.5):
        kind = choice.one(missing)
        wording = "color" if choice.toss(0.5) else "where"
        yield _ask(choice, "absent", wording, f"there is no {kind}", a=kind)


def _describe(scene: WorldScene, choice: _Choice) -> Iterator[Question]:
    row = sorted(scene.objects, key=lambda thing: thing.x)
    told_apart = all(clear_order(a, b) for a, b in pairwise(row))
    if len(row) <= 6 and told_apart and all(map(clear_side, row)) and clear_count(scene):
        yield _ask(choice, "describe", "describe", describe(scene))


_MAKERS: tuple[Callable[[WorldScene, _Choice], Iterator[Question]], ...] = (
    _exists,
    _exists_color,
    _count,
    _color,
    _where,
    _left_of,
    _nearest,
    _sign,
    _ground,
    _sky,
    _path,
    _absent,
    _describe,
)
