# SPDX-License-Identifier: Apache-2.0
"""Draws what the model saw: the kept patches stay bright, the rest is dimmed, question and answer
stand below.

Pure NumPy and OpenCV: no torch, no ROS. The command line, the node and the README use the same
image.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive."""

OUTLINE = (255, 190, 60)  # RGB, amber: seen on grass, snow and asphalt alike
QUESTION_INK = (190, 190, 190)
ANSWER_INK = (255, 255, 255)
BAND = (24, 24, 24)
FONT = cv2.FONT_HERSHEY_SIMPLEX
MAX_LINES = 6  # of the question, and of the answer


def draw_overlay(
    image: np.ndarray,
    kept: Sequence[Box],
    question: str = "",
    answer: str = "",
    *,
    dim: float = 0.4,
    min_width: int = 640,
) -> np.ndarray:
    """Draw the kept patches over an image, and question and answer below it.

    Args:
        image: uint8 [H, W, 3], RGB. It is not changed.
        kept: the boxes of the kept patches, in pixels of `image`; parts outside of it are cut off.
        question, answer: what to write below; with both empty there is no band below the image.
            Characters that OpenCV's fonts lack are written as `?`.
        dim: brightness of what was not kept, from 0 (black) to 1 (as it is: only outlines).
        min_width: a narrower image is enlarged to this width first, so that text can be read;
            0: never.

    Returns:
        uint8 [H', W', 3], RGB. Without text and with `min_width=0` it has the size of `image`.
    """
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    for x0, y0, x1, y1 in kept:
        left, top = max(round(x0), 0), max(round(y0), 0)
        mask[top : max(round(y1), 0), left : max(round(x1), 0)] = 255

    if 0 < width < min_width:
        factor = min_width / width
        size = (min_width, max(1, round(height * factor)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)

    drawn = np.where(mask[..., None] > 0, image, _dimmed(image, dim))
    edges, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(drawn, edges, -1, OUTLINE, max(1, round(drawn.shape[1] / 640)))
    if not question and not answer:
        return drawn
    return np.vstack([drawn, _band(drawn.shape[1], question, answer)])


def _dimmed(image: np.ndarray, dim: float) -> np.ndarray:
    """The image darker and with half of its colour, so that what was kept stands out."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    colour = (1 + dim) / 2
    faded = cv2.addWeighted(image, colour, grey, 1 - colour, 0)
    return cv2.convertScaleAbs(faded, alpha=dim)


def _band(width: int, question: str, answer: str) -> np.ndarray:
    """A dark band with the question and, larger, the answer: uint8 [h, width, 3]."""
    unit = width / 640
    margin = round(14 * unit)
    rows: list[tuple[str, float, int, tuple[int, int, int]]] = []  # text, scale, thickness, colour
    for text, scale, weight, ink in (
        (question, 0.6 * unit, 1, QUESTION_INK),
        (answer, 0.8 * unit, 2, ANSWER_INK),
    ):
        thickness = max(1, round(weight * unit))
        lines = wrap_text(text, width - 2 * margin, scale, thickness)
        rows += [(line, scale, thickness, ink) for line in lines]

    pitch = [round(36 * scale) + 2 for _, scale, _, _ in rows]
    band = np.full((sum(pitch) + 2 * margin, width, 3), BAND, np.uint8)
    y = margin
    for (line, scale, thickness, ink), step in zip(rows, pitch, strict=True):
        y += step
        cv2.putText(band, line, (margin, y - step // 4), FONT, scale, ink, thickness, cv2.LINE_AA)
    return band


def wrap_text(text: str, width: int, scale: float, thickness: int) -> list[str]:
    """Break a text into at most `MAX_LINES` lines that are no wider than `width` pixels; words too
    long are cut.
    """
    lines: list[str] = []
    line = ""
    for word in _plain(text).split():
        longer = f"{line} {word}" if line else word
        if _text_width(longer, scale, thickness) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while _text_width(word, scale, thickness) > width and len(word) > 1:
            fitting = len(word) - 1
            while fitting > 1 and _text_width(word[:fitting], scale, thickness) > width:
                fitting -= 1
            lines.append(word[:fitting])
            word = word[fitting:]  # noqa: PLW2901 (what is left of a word that fills a line)
        line = word
    if line:
        lines.append(line)
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], lines[MAX_LINES - 1][:-3] + "..."]
    return lines


def _plain(text: str) -> str:
    """The text in ASCII: accents go, and what OpenCV's fonts can't draw becomes `?`."""
    bare = unicodedata.normalize("NFKD", text)
    bare = "".join(c for c in bare if not unicodedata.combining(c))
    return bare.encode("ascii", "replace").decode("ascii")


def _text_width(text: str, scale: float, thickness: int) -> int:
    return int(cv2.getTextSize(text, FONT, scale, thickness)[0][0])
