# SPDX-License-Identifier: Apache-2.0
"""The examples stay short, and README.md says how each is started."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
README = (EXAMPLES[0].parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_its_start_is_told(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
    section = README.split(f"## {path.name}\n")[1].split("\n## ")[0]
    assert f"python3 examples/{path.name}" in section


def test_readme_names_no_example_that_is_gone() -> None:
    names = {path.name for path in EXAMPLES}
    assert set(re.findall(r"^## (\S+\.py)$", README, re.MULTILINE)) == names
    assert set(re.findall(r"examples/(\w+\.py)", README)) == names


def test_the_parameters_that_readme_sets_are_declared() -> None:
    """Of the examples' own lines; `-p name:=value` of a misspelt name would change nothing."""
    for path in EXAMPLES:
        section = README.split(f"## {path.name}\n")[1].split("\n## ")[0]
        declared = re.findall(r'declare_parameter\("(\w+)"', path.read_text(encoding="utf-8"))
        assert set(re.findall(r"-p (\w+):=", section)) <= set(declared), path.name
