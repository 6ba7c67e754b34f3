# SPDX-License-Identifier: Apache-2.0
"""What docs/glossary.md names is in the code, under that name."""

import importlib
import re
from pathlib import Path

import pytest

GLOSSARY = Path(__file__).resolve().parents[2] / "docs" / "glossary.md"
PACKAGE = GLOSSARY.parents[1] / "svd_vlm_ros"
NAMES = sorted(
    {
        name
        for line in GLOSSARY.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
        for name in re.findall(r"`([\w./]+)`", line.split(" | ")[-1])
    }
)


@pytest.mark.parametrize("name", NAMES)
def test_a_word_of_the_glossary_is_in_the_code(name: str) -> None:
    if name.endswith(".py"):
        assert (PACKAGE / name).is_file()
        return
    if name == "numpy.ndarray":
        return
    parts = name.split(".")
    at = next(i for i, part in enumerate(parts) if part[0].isupper())
    found = importlib.import_module(".".join(("svd_vlm_ros", *parts[:at])))
    for part in parts[at:]:
        found = getattr(found, part)


def test_a_word_stands_once() -> None:
    words = [
        word.strip()
        for line in GLOSSARY.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| word")
        for word in line.split(" | ")[0].strip("| ").split(",")
    ]
    assert len(words) > 30
    assert len(words) == len(set(words))
