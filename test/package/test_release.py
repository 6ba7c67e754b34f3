# SPDX-License-Identifier: Apache-2.0
"""What a release needs agrees: versions, addresses, rosdep keys; the node imports no research."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import svd_vlm_ros

ROOT = Path(__file__).resolve().parents[2]
RESEARCH = ("bench", "evaluation", "bags", "cli", "scout.training", "scout.train")


def test_the_node_imports_no_research() -> None:
    """A robot's process holds what it needs to answer."""
    pytest.importorskip("rclpy", reason="needs ROS 2")
    code = (
        "import sys, svd_vlm_ros.node.perception, svd_vlm_ros.node.perception_node\n"
        "import svd_vlm_ros.engine\n"
        "print(*(name for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    names = done.stdout.split()
    assert "svd_vlm_ros.engine.engine" in names
    rooms = tuple(f"svd_vlm_ros.{room}" for room in RESEARCH)
    others = ("typer", "rosbags", "rich", "matplotlib", "pytest")
    assert [name for name in names if name.startswith(rooms)] == []
    assert [name for name in names if name.partition(".")[0] in others] == []


def test_citation_and_manifests_name_one_version_and_one_address() -> None:
    catkin_package = pytest.importorskip("catkin_pkg.package", reason="needs catkin_pkg")
    manifest = catkin_package.parse_package(str(ROOT / "package.xml"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == manifest.version == svd_vlm_ros.__version__
    assert citation["license"] == manifest.licenses[0] == "Apache-2.0"
    urls = {url.type: url.url for url in manifest.urls}
    assert set(urls) == {"website", "repository", "bugtracker"}
    assert citation["repository-code"] == urls["repository"]
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    stated = dict(re.findall(r'^(Repository|Issues|Documentation) = "(.+)"$', pyproject, re.M))
    assert stated == {
        "Repository": urls["repository"],
        "Issues": urls["bugtracker"],
        "Documentation": urls["website"],
    }
    assert all("@" in person.email for person in manifest.maintainers), "bloom refuses a release"


def test_rosdep_knows_what_package_xml_names() -> None:
    catkin_package = pytest.importorskip("catkin_pkg.package", reason="needs catkin_pkg")
    manifest = catkin_package.parse_package(str(ROOT / "package.xml"))
    known = yaml.safe_load(
        (ROOT / "test" / "package" / "rosdistro_keys.yaml").read_text(encoding="utf-8")
    )
    used = {
        depend.name
        for kind in ("buildtool_depends", "build_depends", "exec_depends", "test_depends")
        for depend in getattr(manifest, kind)
    }
    assert used == set(known["rosdep"]) | set(known["released"])


def test_hooks_are_the_linters_of_make_lint() -> None:
    """`.pre-commit-config.yaml` runs what CI runs, from the same environment."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\nlint:")[1].split("\n\n")[0]
    run = re.findall(r"\$\(VENV\)/bin/(.+)", recipe)
    assert len(run) >= 5
    assert [entry.removeprefix(".venv/bin/") for entry in entries] == run


@pytest.mark.parametrize("name", ["bug.yml", "question.yml"])
def test_an_issue_is_asked_for_the_doctors_words(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    (doctor,) = (field for field in fields if field["id"] == "doctor")
    assert "svd-vlm doctor --json" in doctor["attributes"]["description"]
    assert doctor["validations"]["required"]
