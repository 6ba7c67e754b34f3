# SPDX-License-Identifier: Apache-2.0
"""The rule for texts that come from users, for node, engine and command line alike."""

from __future__ import annotations

import unicodedata

from svd_vlm_ros.errors import UserError

LONGEST_QUESTION = 20_000  # characters: more than any model's context, and quick to tokenise


def check_text(text: object, what: str) -> str:
    """The text without the blanks around it. Raises `UserError` if it can't be asked."""
    if not isinstance(text, str):
        raise UserError(f"The {what} must be text, not {type(text).__name__}.")
    if len(text) > LONGEST_QUESTION:
        raise UserError(
            f"The {what} has {len(text)} characters: at most {LONGEST_QUESTION} can be read."
        )
    bad = next((c for c in text if c not in "\t\n\r" and _is_control(c)), None)
    if bad is not None:
        raise UserError(f"The {what} contains the control character U+{ord(bad):04X}: remove it.")
    text = text.strip()
    if not text:
        raise UserError(f"The {what} is empty.")
    return text


def _is_control(character: str) -> bool:
    """Control characters, and halves of surrogate pairs, which no encoding can write."""
    return unicodedata.category(character) in ("Cc", "Cs")
