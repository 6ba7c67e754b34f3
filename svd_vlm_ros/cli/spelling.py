# SPDX-License-Identifier: Apache-2.0
"""The nearest spelling of a wrong name, added to the sentence of the error that refuses it.

A `UserError` about a wrong name lists those that there are: "There is no selector 'sdv': take one
of svd, none." So the name and the list are in the sentence, whichever room it comes from.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LISTED = re.compile(r"'(?P<word>[^']+)'[^:]*: (?:take (?:one of|some of|of)|its options are) (.+)")
_NOT_HERE = re.compile(r"^The model (\S+) is not on this machine")
SIMILAR = 0.6  # difflib's ratio, from 0 to 1


def nearest(word: str, known: Iterable[str]) -> str:
    """The name that is most like a wrong one; "": none is like it. Case makes no difference."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=SIMILAR)
    return names[found[0]] if found else ""


def with_nearest(sentence: str) -> str:
    """The sentence, and behind it "Did you mean ...?" if a name that there is resembles it."""
    if listed := _LISTED.search(sentence):
        word, known = listed[1], re.findall(r"[^\s,]+", listed[2].rstrip("."))
    elif missing := _NOT_HERE.match(sentence):
        from svd_vlm_ros.planning.known import CONFIGURATIONS, SCOUT

        word, known = missing[1], [*CONFIGURATIONS, SCOUT]
    else:
        return sentence
    name = nearest(word, known)
    return f"{sentence} Did you mean '{name}'?" if name and name != word else sentence
