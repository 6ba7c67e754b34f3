# SPDX-License-Identifier: Apache-2.0
"""Standing questions: what a robot wants to know of every image, and when an answer has changed.

    path = parse_fact("path: is the path clear? [yes, no]")
    tracker = FactTracker(frames=2)
    tracker.update(path, answer.probabilities)    # once an image; Observation(value, changed, ...)

A model that is undecided between two answers gives now the one, now the other. So a value changes
only when another answer has been the likeliest for several images in a row. Neither ROS nor torch
is needed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from svd_vlm_ros.errors import UserError

MAX_FACTS = 64
MAX_CHOICES = 64
MAX_TEXT = 2000  # characters of a question, and of its choices together
YES_NO = ("yes", "no")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_ONE_LINE = re.compile(
    r"\s*(?P<name>[^:\s]+)\s*:\s*(?P<question>.*?)\s*(?:\[(?P<choices>[^\[\]]*)\])?\s*", re.DOTALL
)


@dataclass(frozen=True)
class Fact:
    """A standing question: `choices` are its possible answers, `camera` "" is the first one."""

    name: str
    question: str
    choices: tuple[str, ...] = YES_NO
    camera: str = ""


@dataclass(frozen=True)
class Observation:
    """What one image says about a fact.

    `value` is the settled answer and `previous` the one before this image ("": none yet);
    `changed` says that they differ and that this is not the first value. `probabilities` are this
    image's own, one a choice.
    """

    fact: Fact
    probabilities: tuple[float, ...]
    value: str
    previous: str

    @property
    def changed(self) -> bool:
        """Whether the value became another one with this image."""
        return self.previous not in ("", self.value)

    @property
    def is_news(self) -> bool:
        """Whether the value is the first one or another one than before."""
        return self.previous != self.value


def check_name(name: str) -> str:
    """The name of a fact. Raises `UserError` if it can't be one."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"A fact is named '{name[:60]}': a name begins with a letter and goes on with letters, "
            "digits and underscores."
        )
    return name


def check_fact(fact: Fact) -> Fact:
    """The fact without blanks around its texts. Raises `UserError` with one sentence."""
    check_name(fact.name)
    subject = f"Fact '{fact.name}'"
    question = fact.question.strip()
    choices = tuple(choice.strip() for choice in fact.choices)
    if not question:
        raise UserError(f"{subject} asks nothing: give it a question.")
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise UserError(f"{subject} has {len(choices)} choices: give it 2 to {MAX_CHOICES}.")
    if not all(choices):
        raise UserError(f"{subject} has an empty choice: give each choice a text.")
    if len(set(choices)) < len(choices):
        raise UserError(f"{subject} has the same choice twice: give each choice once.")
    if max(len(question), sum(map(len, choices))) > MAX_TEXT:
        raise UserError(
            f"{subject} is too long: its question, and its choices together, may have {MAX_TEXT} "
            "characters."
        )
    if not all(text.isprintable() for text in (question, *choices)):
        raise UserError(f"{subject} contains line breaks or control characters: remove them.")
    return Fact(fact.name, question, choices, fact.camera)


def parse_fact(text: str) -> Fact:
    """A fact of one line, `name: question [choice, choice]`; without brackets yes and no.

    Raises:
        UserError: the text has another form, or the fact can't be asked.
    """
    match = _ONE_LINE.fullmatch(text)
    if match is None:
        raise UserError(
            f"'{text[:80]}' is not a fact: write it as 'name: question [choice, choice]'."
        )
    choices = YES_NO if match["choices"] is None else tuple(match["choices"].split(","))
    return check_fact(Fact(match["name"], match["question"], choices))


class FactTracker:
    """Settles the values of facts over the images of their cameras.

    The first answer of a fact is its value at once: there is nothing better. Afterwards another
    answer becomes the value when it has been the likeliest for `frames` images in a row.
    """

    def __init__(self, frames: int = 2) -> None:
        self.frames = frames
        self._values: dict[Fact, str] = {}
        self._rivals: dict[Fact, tuple[str, int]] = {}  # an answer and for how many images
        self._images: dict[Fact, int] = {}  # the last one that counted

    def update(
        self, fact: Fact, probabilities: Sequence[float], image: int | None = None
    ) -> Observation:
        """Take in what one more image says: one probability a choice.

        image: its number, if the fact may be asked of it again; the same image counts once.
        """
        probabilities = tuple(probabilities)
        if image is not None:
            if self._images.get(fact) == image:
                value = self._values[fact]
                return Observation(fact, probabilities, value, value)
            self._images[fact] = image
        likeliest = fact.choices[max(range(len(probabilities)), key=probabilities.__getitem__)]
        previous = self._values.get(fact, "")
        value = likeliest
        if previous and likeliest != previous:
            rival, seen = self._rivals.get(fact, ("", 0))
            seen = seen + 1 if rival == likeliest else 1
            self._rivals[fact] = (likeliest, seen)
            if seen < self.frames:
                value = previous
        if likeliest == value:
            self._rivals.pop(fact, None)
        self._values[fact] = value
        return Observation(fact, probabilities, value, previous)

    def keep_only(self, facts: Iterable[Fact]) -> None:
        """Forget all but these; a fact whose question, choices or camera differ is another one."""
        kept = set(facts)
        self._values = {fact: value for fact, value in self._values.items() if fact in kept}
        self._rivals = {fact: rival for fact, rival in self._rivals.items() if fact in kept}
        self._images = {fact: image for fact, image in self._images.items() if fact in kept}

    def clear(self) -> None:
        """Forget all."""
        self.keep_only(())
