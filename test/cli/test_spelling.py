# SPDX-License-Identifier: Apache-2.0
"""Errors name the nearest spelling of a wrong selector, model, command or option's value."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from svd_vlm_ros.cli.main import app
from svd_vlm_ros.cli.spelling import nearest, with_nearest


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["ask", "IMAGE", "hm?", "--model", "random:tiny", "--selector", "sdv-cover"], "svd-cover"),
        (["ask", "IMAGE", "hm?", "--model", "random:tniy"], "random:tiny"),
        (["ask", "IMAGE", "hm?", "--model", "scuot"], "scout"),
        (
            ["ask", "IMAGE", "hm?", "--model", "qwen/Qwen3-VL-2B-instruct"],
            "Qwen/Qwen3-VL-2B-Instruct",
        ),
        (["eval", "--task", "scout", "--selectors", "svd,divprun"], "divprune"),
        (["plan", "--device", "orin-nx-16", "--model", "qwen3-vl-2"], "qwen3-vl-2b"),
    ],
)
def test_a_mistake_names_the_nearest(
    arguments: list[str], near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    image = Path(__file__).resolve().parents[2] / "docs" / "images" / "scene.png"
    ran = CliRunner().invoke(app, [str(image) if a == "IMAGE" else a for a in arguments])
    assert ran.exit_code == 1
    assert ran.stderr.rstrip().endswith(f"Did you mean '{near}'?")
    assert len([line for line in ran.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_a_command() -> None:
    ran = CliRunner().invoke(app, ["annotat"])
    assert ran.exit_code == 2
    assert "Did you mean 'annotate'?" in ran.stderr


def test_what_is_like_nothing_gets_no_guess() -> None:
    for sentence in (
        "There is no selector 'xyzzy': take one of svd-cover, svd, none.",
        "The model nobody/nothing is not on this machine: fetch it.",
        "The question is empty: ask something.",
    ):
        assert with_nearest(sentence) == sentence
    assert nearest("SVD", ["svd", "svd-cover"]) == "svd"
    assert nearest("", ["svd"]) == ""
