# SPDX-License-Identifier: Apache-2.0
"""What docs/glossary.md names is in the code, under that name and no older one."""

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
ROOT = PACKAGE.parent
TREES = (
    "svd_vlm_ros",
    "docs",
    "benchmark",
    "examples",
    "launch",
    "config",
    "msg",
    "srv",
    "action",
    "src",
)
TEXTS = {".py", ".md", ".cpp", ".hpp", ".msg", ".srv", ".action", ".yaml", ".xml"}
# What users have in scripts and on disk keeps the name that it was given: options, a profile, keys
# of reports ("picture", 'pictures') and the folder of their images; so do sentences to a model.
KEPT = re.compile(
    r"--(keep-)?pictures?\b|large_pictures|picture_(stamp|reused)|(wrong|unread)_pictures?"
    r"|malformed picture\"|[\"'`]pictures?[\"'`]|`pictures/`|picture\|image\|photo"
    r"|03bc653:svd_vlm_ros/pictures/|sed s/picture/image/g|person in the picture\?"
)
WORDINGS = PACKAGE / "scout" / "wordings.py"  # the sentences that scout was trained on


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


def test_an_image_is_called_an_image() -> None:
    paths = [path for tree in TREES for path in (ROOT / tree).rglob("*") if path.suffix in TEXTS]
    assert len(paths) > 200
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in (*paths, ROOT / "README.md")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "picture" in KEPT.sub("", line).lower() and path != WORDINGS
    ]
    assert found == []
