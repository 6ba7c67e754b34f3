# SPDX-License-Identifier: Apache-2.0
"""Table of rooms, import contracts and package name the same rooms in the same order."""

import re
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "svd_vlm_ros"


def table() -> list[str]:
    """The first column of the table in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = text.split("| room |")[1].split("\n\n")[0]
    return re.findall(r"^\| `(\w+)/?`", rows, re.MULTILINE)


def contracts() -> list[dict]:
    content = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(content)["tool"]["importlinter"]["contracts"]


def layers() -> list[list[str]]:
    """The rooms of each layer that are there already, from the top down."""
    (found,) = (contract for contract in contracts() if contract["id"] == "layers")
    return [
        [room for room in map(str.strip, re.split(r"[|:]", layer)) if not room.startswith("(")]
        for layer in found["layers"]
    ]


def test_the_table_names_the_rooms_of_the_contracts_from_the_top_down():
    assert table() == [room for layer in layers() for room in layer]


def test_every_room_of_the_package_is_in_the_table():
    there = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    there |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert there == set(table())


def test_the_smallest_family_is_shown_as_it_is():
    """The list of its files in docs/architecture.md, and that it is the smallest one."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = {name: int(lines) for name, lines in re.findall(r"^(\S+) +\| +(\d+) \+", text, re.M)}
    for name, lines in shown.items():
        content = (ROOT / name).read_text(encoding="utf-8").splitlines()
        naming = sum("idefics3" in line for line in content)
        assert lines == (len(content) if "idefics3" in name else naming), name
    models = PACKAGE / "models"
    rooms = {
        room.parent.name: sum(
            len(file.read_text("utf-8").splitlines()) for file in room.parent.glob("*.py")
        )
        for room in models.glob("*/__init__.py")
        if "FAMILY = " in room.read_text(encoding="utf-8")
    }
    assert len(rooms) > 5
    assert min(rooms, key=rooms.__getitem__) == "idefics3"
    folder = "svd_vlm_ros/models/idefics3/"
    assert rooms["idefics3"] == sum(n for name, n in shown.items() if name.startswith(folder)) < 200
    told = re.findall(
        r"(?:LLaVA-OneVision|Qwen2\.5-VL|Gemma 3)\D*(\d+) lines", text.split("So do ")[1]
    )
    assert told == [str(rooms[name]) for name in ("llava_onevision", "qwen2_5_vl", "gemma3")]


def test_contracts_hold(capsys):
    """As `make lint` does, so that whoever runs the tests alone sees it too."""
    use_cases = pytest.importorskip("importlinter.cli", reason="needs import-linter")
    kept = sys.path.copy()
    sys.path.insert(0, str(ROOT))
    try:
        code = use_cases.lint_imports(
            config_filename=str(ROOT / "pyproject.toml"), cache_dir=None, no_cache=True
        )
    finally:
        sys.path[:] = kept
    assert code == 0, capsys.readouterr().out
