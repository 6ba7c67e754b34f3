# SPDX-License-Identifier: Apache-2.0
"""Images of the report: what each selector kept, drawn over them, and what was answered.

An image is in the page once; what was not kept is dimmed by a path over it. Kept patches are
outlined; a token that was merged from several has a dashed outline and a dot on the patch that
stands for it, and the patches that went into it are dimmed less.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.cells import CLEAN, KEEP_ALL, Cell
from svd_vlm_ros.evaluation.records import Folder
from svd_vlm_ros.evaluation.shown import LOOKS, image_path

SHOWN_QUESTIONS = 4  # of an image, under each selector
WIDEST = 336  # pixels of an image in the page
JPEG_QUALITY = 80
LIKELY = 64  # the budget that is shown beside the smallest one


def gallery_html(out: Path, folder: Folder, selectors: Sequence[str]) -> str:
    """Up to twelve images, each folded away under its name; "" if none were kept."""
    looks: dict[str, dict[tuple[int, str], dict[str, Any]]] = {}
    first = _first_precision(folder)
    for line in folder.looks:
        cell = Cell.from_key(line["cell"])
        if cell.condition == CLEAN and cell.precision == first:
            looks.setdefault(line["picture"], {})[cell.tokens, cell.selector] = line
    keys = [key for key in looks if image_path(out, key).is_file()][:LOOKS]
    budgets = _budgets({tokens for key in keys for tokens, name in looks[key] if name != KEEP_ALL})
    parts = []
    for number, key in enumerate(keys):
        parts.append(_image_html(out, folder, key, number, looks[key], budgets, selectors, first))
    return "".join(parts)


def _first_precision(folder: Folder) -> str:
    return next((Cell.from_key(line["cell"]).precision for line in folder.looks), "")


def _budgets(found: Iterable[int]) -> list[int]:
    """Two of the budgets: the one nearest to 64 and the smallest."""
    ordered = sorted(found)
    if not ordered:
        return []
    near = min(ordered, key=lambda tokens: abs(tokens - LIKELY))
    return list(dict.fromkeys((near, ordered[0])))


def _image_html(
    out: Path,
    folder: Folder,
    key: str,
    number: int,
    looks: Mapping[tuple[int, str], Mapping[str, Any]],
    budgets: Sequence[int],
    selectors: Sequence[str],
    precision: str,
) -> str:
    size = next(iter(looks.values()))["size"]
    rows = _answers(folder, key, Cell(precision, KEEP_ALL, 0))
    parts = [
        f'<details class="image"{" open" if number == 0 else ""}><summary>',
        f'<svg class="thumb" viewBox="0 0 {size[1]} {size[0]}" role="img" '
        f'aria-label="image {escape(key)}">',
        f'<image id="p{number}" href="{_data_uri(image_path(out, key))}" '
        f'width="{size[1]}" height="{size[0]}"/></svg>',
        f"<span>Image {escape(key)}</span></summary>",
    ]
    parts.append(f"<p>Asked, with the true answers:</p>{_truths(folder, key)}")
    if rows:
        parts.append(f"<p>With all tokens:</p>{_list(rows)}")
    shown: set[str] = set()
    for budget in budgets:
        parts.append(f"<h4>{budget} tokens</h4><div class='looks'>")
        for name in selectors:
            tokens = _nearest(looks, name, budget)
            if tokens is None or (tokens != budget and name in shown):
                continue
            shown.add(name)
            look = looks[tokens, name]
            answers = _answers(folder, key, Cell(precision, name, tokens))
            parts.append(
                f"<figure>{_drawn(look, number)}<figcaption><b>{escape(name)}</b>, "
                f"{_count(len(look['kept']), tokens)}{_list(answers)}</figcaption></figure>"
            )
        parts.append("</div>")
    return "".join([*parts, "</details>"])


def _nearest(
    looks: Mapping[tuple[int, str], Mapping[str, Any]], name: str, budget: int
) -> int | None:
    """The budget of a selector that is nearest to one that it may not be able to keep to."""
    there = [tokens for tokens, selector in looks if selector == name]
    return min(there, key=lambda tokens: abs(tokens - budget), default=None)


def _count(kept: int, budget: int) -> str:
    if kept == budget:
        return f"{kept} tokens"
    return f"{kept} tokens in the end, asked for {budget}"


def _answers(folder: Folder, key: str, cell: Cell) -> list[tuple[str, str, float]]:
    """Of an image in a cell (tokens 0: any number): question, answer, score of some questions."""
    asked = folder.asked.get(key, {})
    for other, answers in folder.answers.items():
        found = Cell.from_key(other)
        same = (found.precision, found.selector) == (cell.precision, cell.selector)
        if same and found.condition == CLEAN and cell.tokens in (0, found.tokens):
            there = [question for question in asked if question in answers]
            step = max(1, len(there) // SHOWN_QUESTIONS)
            return [
                (asked[q][0], answers[q].answer, answers[q].score)
                for q in there[::step][:SHOWN_QUESTIONS]
            ]
    return []


def _truths(folder: Folder, key: str) -> str:
    """The questions that are shown of an image, with their true answers."""
    asked = list(folder.asked.get(key, {}).values())
    step = max(1, len(asked) // SHOWN_QUESTIONS)
    items = [
        f"<li>{escape(question)} <b>{escape(true)}</b></li>"
        for question, true in asked[::step][:SHOWN_QUESTIONS]
    ]
    return f"<ol>{''.join(items)}</ol>"


def _list(rows: Iterable[tuple[str, str, float]]) -> str:
    items = []
    for question, answer, score in rows:
        mark, name = ("✓", "right") if score >= 0.5 else ("✗", "wrong")
        items.append(
            f'<li title="{escape(question, quote=True)}"><span class="{name}">{mark}</span> '
            f"{escape(answer or '(nothing)')}</li>"
        )
    return f"<ol>{''.join(items)}</ol>" if items else ""


def _drawn(look: Mapping[str, Any], number: int) -> str:
    """An image with what was kept of it: SVG over the image that is in the page already."""
    height, width = look["size"]
    merged = {int(index): made for index, made in look["merged"].items()}
    kept = set(look["kept"])
    joined = {index for made in merged.values() for index in made if index >= 0} - kept
    patches = range(look["grid"][0] * look["grid"][1])
    left_out = [index for index in patches if index not in kept and index not in joined]
    plain = [index for index in look["kept"] if index not in merged]
    dots = "".join(_dot(look, index) for index in merged)
    kinds = f"{len(plain)} patches kept"
    if merged:
        kinds += f", {len(merged)} tokens merged from {len(joined) + len(merged)} patches"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{kinds}">'
        f'<title>{kinds}</title><use href="#p{number}"/>'
        f'<path class="out" d="{_area(look, left_out)}"/>'
        f'<path class="joined" d="{_area(look, sorted(joined))}"/>'
        f'<path class="kept" d="{_area(look, plain)}"/>'
        f'<path class="merged" d="{_area(look, sorted(merged))}"/>{dots}</svg>'
    )


def _area(look: Mapping[str, Any], indices: Sequence[int]) -> str:
    """The path of some patches, those beside each other in a row as one box."""
    columns = look["grid"][1]
    path, at = [], 0
    while at < len(indices):
        end = at
        while (
            end + 1 < len(indices)
            and indices[end + 1] == indices[end] + 1
            and indices[end + 1] % columns
        ):
            end += 1
        x0, y0, _, y1 = _box(look, indices[at])
        x1 = _box(look, indices[end])[2]
        if x1 > x0 and y1 > y0:
            path.append(f"M{x0:.5g} {y0:.5g}H{x1:.5g}V{y1:.5g}H{x0:.5g}z")
        at = end + 1
    return "".join(path)


def _box(look: Mapping[str, Any], index: int) -> tuple[float, float, float, float]:
    row, column = divmod(index, look["grid"][1])
    x, y, across, down = look["patch"]
    height, width = look["size"]
    x, y = x + column * across, y + row * down
    return (
        min(max(x, 0), width),
        min(max(y, 0), height),
        min(max(x + across, 0), width),
        min(max(y + down, 0), height),
    )


def _dot(look: Mapping[str, Any], index: int) -> str:
    x0, y0, x1, y1 = _box(look, index)
    radius = max(look["patch"][2] / 5, 1)
    return (
        f'<circle class="dot" cx="{(x0 + x1) / 2:.5g}" cy="{(y0 + y1) / 2:.5g}" r="{radius:.3g}"/>'
    )


def _data_uri(path: Path) -> str:
    """An image as a data address, small enough for a page."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{path} is broken: delete it and run the evaluation again.")
    height, width = image.shape[:2]
    if width > WIDEST:
        size = (WIDEST, max(1, round(height * WIDEST / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
