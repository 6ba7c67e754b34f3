# SPDX-License-Identifier: Apache-2.0
"""Files for containers and systemd: whole, public, honest about what was not built, as docs say."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
BASES = {"ros:jazzy-ros-base", "nvcr.io/nvidia/l4t-jetpack:r36.4.0"}
HOSTS = {
    "download.pytorch.org",
    "packages.ros.org",
    "raw.githubusercontent.com",
    "example.org",
}


def test_there_are_three() -> None:
    assert [path.suffix for path in DOCKERFILES] == [".cpu", ".cuda", ".jetson"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Not built here.")
    assert f"docker build -f docker/{path.name}" in text
    assert {base.split()[0] for base in re.findall(r"^FROM (.+)$", text, re.M)} <= BASES
    for source in re.findall(r"^COPY (\S+) ", text, re.M):
        assert "$" in source or (ROOT / source).exists(), source
    assert re.search(r"^USER robot$", text, re.M), "not root"
    assert path.name in PAGE


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_installs_what_the_docs_do(path: Path) -> None:
    """The versions that docs/models.md names."""
    models = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^python3 -m pip install ('transformers.+)$", models, re.M)
    text = path.read_text(encoding="utf-8")
    for requirement in line.split():
        # A Jetson's bitsandbytes is a wheel that the user gives.
        given = "bitsandbytes" in requirement and path.suffix == ".jetson"
        assert requirement in text or given, requirement


def test_addresses_are_public() -> None:
    for path in (*DOCKERFILES, *(ROOT / "docker").glob("*.*"), *(ROOT / "deploy").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://([^/\s:\"']+)", text)) <= HOSTS, path.name
        assert re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text) == [], path.name


def test_compose() -> None:
    text = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"camera", "perception"}
    for service in services.values():
        assert (service["network_mode"], service["ipc"]) == ("host", "host")
    default = re.search(r"DOCKERFILE:-([^}]+)}", text)
    assert default is not None
    assert (ROOT / default[1]).is_file()


def test_the_unit() -> None:
    path = ROOT / "deploy" / "svd-vlm.service"
    unit = configparser.RawConfigParser(strict=False, comment_prefixes="#")
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string(re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8")))
    assert unit.sections() == ["Unit", "Service", "Install"]
    service = unit["Service"]
    assert "lib/svd_vlm_ros/perception_node --ros-args --params-file" in service["ExecStart"]
    assert service["KillSignal"] == "SIGINT", "the node ends in order on it"
    assert service["Restart"] == "on-failure"
    assert "deploy/svd-vlm.service" in PAGE


def test_each_shell_line_names_its_machine() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    assert len(blocks) >= 5
    for block in blocks:
        assert re.match(r"# (on the|a|x86-64) ?.*(robot|machine|Jetson|GPU)", block), block
