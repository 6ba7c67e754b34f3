# SPDX-License-Identifier: Apache-2.0
"""Means, intervals, differences and tables, against slow and plain ways to the same numbers."""

import math
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svd_vlm_ros.evaluation.cells import Cell
from svd_vlm_ros.evaluation.published import published
from svd_vlm_ros.evaluation.records import Folder, Scored
from svd_vlm_ros.evaluation.report import report_html
from svd_vlm_ros.evaluation.results import collect, difference, figure
from svd_vlm_ros.evaluation.tables import as_json, kinds_markdown, markdown


def test_one_question_an_image_gives_the_usual_interval() -> None:
    scores = [1.0, 0.0, 1.0, 1.0, 0.3, 0.9, 0.0, 1.0]

    found = figure((str(at), score) for at, score in enumerate(scores))

    assert found is not None
    assert found.mean == pytest.approx(100 * statistics.mean(scores))
    usual = 1.96 * statistics.stdev(scores) / math.sqrt(len(scores))
    assert found.interval == pytest.approx(100 * usual)


def test_the_interval_covers_the_truth_if_images_stick_together() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        skill = np.clip(rng.normal(0.6, 0.25, 60), 0, 1)  # of each image
        scores = [
            (str(p), float(rng.random() < skill[p])) for p in range(60) for _ in range(5 + p % 7)
        ]
        found = figure(scores)
        assert found is not None
        covered += abs(found.mean / 100 - 0.596) < found.interval / 100
    assert 0.90 < covered / 400 < 0.985


def scored(image: str, score: float, kind: str = "color") -> Scored:
    return Scored(image, kind, "a", score, 16.0)


def folder(**cells: dict[str, Scored]) -> Folder:
    settings: dict[str, Any] = {"task": "gqa", "model": "m", "protocol": "P.", "relevance": "clip"}
    return Folder(settings, {key.replace("__", "/"): value for key, value in cells.items()})


def test_differences_are_over_the_questions_of_both() -> None:
    ours = {"1": scored("p", 1.0), "2": scored("q", 1.0), "3": scored("r", 0.0)}
    theirs = {"1": scored("p", 0.0), "2": scored("q", 1.0)}
    both = folder(bf16__grid__16__clean=ours, bf16__svd__16__clean=theirs)

    found = difference(both, Cell("bf16", "grid", 16), Cell("bf16", "svd", 16))

    assert found is not None
    assert (found.mean, found.questions) == (50.0, 2)


def test_the_table_shows_what_is_published() -> None:
    questions = {str(n): scored(str(n), float(n % 2), f"kind {n % 2}") for n in range(10)}
    some = folder(
        bf16__none__576__clean=questions,
        bf16__svd__64__clean=questions,
        bf16__svd__16__clean={k: questions[k] for k in list(questions)[:8]},
        bf16__tome__64__clean=questions,
    )

    text = markdown(some)

    assert "| none | 50.0 ± 32.7 (61.9) [1] |" in text
    assert "1. `none` at 576: reads 16.0 tokens, the mean over layers." in text
    assert "(53.77)" in text
    assert "(48.6; 56)" in text
    assert "| svd | = |" in text
    assert "`svd` at 16: 2 questions have no answer" in text
    assert "| tome | +0.0 ± 0.0 |" in text
    assert "kind 0" in kinds_markdown(some)
    cell = next(c for c in as_json(some)["cells"] if c["selector"] == "tome")
    assert cell["accuracy"]["mean"] == 50.0
    assert list(cell["accuracy"]) == ["mean", "interval", "questions", "pictures"]
    assert cell["published"] == (48.6, 56.0)


def test_published_figures() -> None:
    assert published("gqa", "svd", 16) == (53.04,)
    assert published("textvqa", "scope", 32) == (54.8,)
    assert published("textvqa", "none", 576) == (58.2,)
    assert published("gqa", "tome", 16) == ()
    assert published("scout", "svd", 16) == ()


def test_accuracy_by_kind_adds_up() -> None:
    found = collect(
        folder(bf16__svd__16__clean={"1": scored("p", 1.0, "a"), "2": scored("p", 0.0, "b")})
    )
    cell = found.cells[Cell("bf16", "svd", 16)]
    assert cell.accuracy is not None
    assert cell.accuracy.mean == 50.0
    assert (cell.kinds["a"].mean, cell.kinds["b"].mean) == (100.0, 0.0)


class Page(HTMLParser):
    """What a page would fetch, and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "srcset") and value:
                self.fetched.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "link", "input"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    questions = {str(n): scored(str(n), float(n % 3 > 0), f"<kind {n % 2}>") for n in range(12)}
    some = folder(
        bf16__none__576__clean=questions,
        **{f"bf16__{name}__64__clean": questions for name in ("svd", "tome", "grid")},
    )
    some.times["bf16/svd/64/clean"] = [{"first_token": 0.21}]
    some.times["bf16/none/576/clean"] = [{"first_token": 0.93}]

    text = report_html(tmp_path, some)

    page = read_page(text)
    assert all(value.startswith(("data:", "#")) for value in page.fetched)
    assert "script" not in page.tags
    assert "@import" not in text
    assert "url(" not in text
    assert "&lt;kind 0&gt;" in text
    assert page.tags.count("svg") > 4


def test_lines_differ_without_colour() -> None:
    from svd_vlm_ros.evaluation.plots import style

    looks = {style(index)[1:] for index in range(42)}
    assert len(looks) == 42
