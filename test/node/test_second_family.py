# SPDX-License-Identifier: Apache-2.0
"""The node answers with a model of a family that it has never heard of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from toy_family import COLUMNS, ROWS, ToyFamily, make_toy

from svd_vlm_ros import models
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.models import registry

if TYPE_CHECKING:
    from robot import Robot

QUESTION = "is the path clear?"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    models.register(ToyFamily())
    yield make_toy(tmp_path)
    del registry._families["toy"]


def test_the_service_answers_with_a_second_family(robot: Robot, folder: Path) -> None:
    from robot import image_message, make_image

    given = {"precision": "fp32", "device": "cpu", "visual_tokens": 6}
    robot.start(model=str(folder), max_new_tokens=6, **given)
    image = make_image(1)
    shown = robot.show(image_message(image, "front"))
    reply = robot.ask(QUESTION)
    assert (reply.status, reply.message) == (reply.OK, "")
    assert reply.header == shown.header
    engine = SceneEngine.load(str(folder), **given)
    wanted = engine.ask(engine.see(image), QUESTION, max_new_tokens=6)
    assert reply.answer == wanted.text
    stats = reply.stats
    assert (stats.visual_tokens_kept, stats.visual_tokens_total) == (6, ROWS * COLUMNS)
    chosen = robot.ask(QUESTION, choices=["yes", "no"])
    other = engine.choose(engine.see(image), QUESTION, ["yes", "no"])
    assert chosen.answer == other.text
    assert list(chosen.probabilities) == pytest.approx(other.probabilities, abs=1e-5)
