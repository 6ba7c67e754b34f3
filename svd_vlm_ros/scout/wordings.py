# SPDX-License-Identifier: Apache-2.0
"""The words of the world: in which sentences a person may ask, and all words that may come up."""

from __future__ import annotations

import re

from .world import COLORS, GROUNDS, KINDS, SIDES, SKIES

WORDINGS: dict[str, tuple[str, ...]] = {
    "exists": (
        "is there a {a}?",
        "is there a {a} in the picture?",
        "is there any {a}?",
        "can you see a {a}?",
        "do you see a {a}?",
        "is a {a} in the scene?",
        "does the picture show a {a}?",
    ),
    "count": (
        "how many {s} are there?",
        "how many {s} do you see?",
        "how many {s} can you see?",
        "how many {s} are in the picture?",
        "count the {s}.",
        "what is the number of {s}?",
    ),
    "color": (
        "what color is the {a}?",
        "what is the color of the {a}?",
        "which color is the {a}?",
        "what colour is the {a}?",
        "what is the colour of the {a}?",
        "tell me the color of the {a}.",
        "which color does the {a} have?",
    ),
    "where": (
        "where is the {a}?",
        "on which side is the {a}?",
        "which side is the {a} on?",
        "where do you see the {a}?",
        "where can i find the {a}?",
        "is the {a} on the left, in the center or on the right?",
        "is the {a} left, center or right?",
    ),
    "left of": (
        "is the {a} left of the {b}?",
        "is the {a} to the left of the {b}?",
        "is the {a} on the left of the {b}?",
        "is the {a} further left than the {b}?",
    ),
    "right of": (
        "is the {a} right of the {b}?",
        "is the {a} to the right of the {b}?",
        "is the {a} on the right of the {b}?",
        "is the {a} further right than the {b}?",
    ),
    "nearest": (
        "what is nearest?",
        "what is the nearest object?",
        "what is closest?",
        "what is the closest object?",
        "which object is nearest?",
        "which object is closest to the robot?",
        "what is nearest to the robot?",
        "what is the closest thing?",
    ),
    "sign": (
        "what does the sign say?",
        "what number is on the sign?",
        "which number is on the sign?",
        "read the sign.",
        "what is written on the sign?",
        "what number does the sign show?",
    ),
    "ground": (
        "what is the ground?",
        "what is the ground made of?",
        "what kind of ground is it?",
        "what kind of ground is there?",
        "what is the robot driving on?",
        "which surface is the ground?",
    ),
    "sky": (
        "how is the sky?",
        "what is the sky like?",
        "how does the sky look?",
        "what does the sky look like?",
        "what kind of sky is it?",
    ),
    "path clear": (
        "is the path clear?",
        "is the path free?",
        "is the way clear?",
        "is the way free?",
        "is the path ahead clear?",
        "can the robot go on?",
        "can i drive on?",
    ),
    "path blocked": (
        "is the path blocked?",
        "is the way blocked?",
        "is there something on the path?",
        "is anything on the path?",
        "is the path ahead blocked?",
        "is there an obstacle on the path?",
    ),
    "describe": (
        "describe the scene.",
        "describe the picture.",
        "describe what you see.",
        "what do you see?",
        "what is in the picture?",
        "what does the camera see?",
    ),
}

PLURALS = {kind: kind + "s" for kind in KINDS} | {"box": "boxes", "person": "people"}


def with_article(name: str) -> str:
    """The name with "a" or "an"."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def vocabulary() -> list[str]:
    """Every word that a question or an answer of the world can hold, in a fixed order."""
    texts = [w for options in WORDINGS.values() for w in options]
    texts += ["there is no under a an clear sky with and on in the left center right yes no"]
    words = {w for text in texts for w in re.sub(r"\{.\}", "", text).split()}
    bare = {w.strip("?.,") for w in words}
    named = {*KINDS, *COLORS, *PLURALS.values(), *GROUNDS, *SKIES, *SIDES, "objects"}
    return sorted((bare | named) - {""})
