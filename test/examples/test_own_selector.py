# SPDX-License-Identifier: Apache-2.0
"""A selector from outside: as a program, and as another package's entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCENE = EXAMPLES.parent / "docs" / "images" / "scene.png"
ASK = ("-m", "svd_vlm_ros.cli.main", "ask", SCENE, "what is the ground?", "--visual-tokens", "32")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        cwd="/",  # not the checkout, whose package has no compiled kernels
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the example as an installed package, as README.md shows it."""
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    shown = readme.split("## own_selector.py\n")[1].split("```toml\n")[1].split("```")[0]
    group, point = re.findall(r'entry-points\."(.+)"\]\n(.+)\n', shown)[0]
    info = tmp_path / "own_selector-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-selector\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{point.replace(chr(34), '')}\n")
    (tmp_path / "own_selector.py").write_text((EXAMPLES / "own_selector.py").read_text())
    return tmp_path


def test_as_a_program() -> None:
    done = run(EXAMPLES / "own_selector.py", SCENE, "what is the ground?", "--visual-tokens", 32)
    assert done.returncode == 0, done.stderr
    assert "(32 of 576 tokens)" in done.stdout


def test_as_an_entry_point_of_another_package(package: Path) -> None:
    done = run(*ASK, "--selector", "middle", PYTHONPATH=str(package))
    assert done.returncode == 0, done.stderr
    assert "32 of 576" in done.stdout
    without = run(*ASK, "--selector", "middle")
    assert without.returncode == 1
    assert "There is no selector 'middle'" in without.stderr


def test_a_broken_one_is_named_and_harms_no_other(package: Path) -> None:
    (package / "own_selector.py").write_text("raise ImportError('no module named tea')\n")
    done = run(*ASK, PYTHONPATH=str(package))
    assert done.returncode == 0, done.stderr
    done = run(*ASK, "--selector", "middle", PYTHONPATH=str(package))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "'middle' of the package own-selector can't be loaded" in line
    assert "no module named tea" in line
