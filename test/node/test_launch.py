# SPDX-License-Identifier: Apache-2.0
"""The launch files with the real launch: arguments, their defaults, and who goes before whom."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("launch_ros", reason="launch is not on PyPI: this needs a ROS installation")
if shutil.which("ros2") is None:
    pytest.skip("needs the command ros2", allow_module_level=True)

from launch.launch_description_sources import get_launch_description_from_python_launch_file

from svd_vlm_ros.node.parameters.declarations import PARAMETERS

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
OF_CAMERA = {"image_topic": "image", "compressed": "false", "reliability": "auto"}
OF_LAUNCH = {"params_file", "namespace", "log_level", "use_sim_time"}


def arguments(name: str) -> dict:
    description = get_launch_description_from_python_launch_file(str(LAUNCH / name))
    return {argument.name: argument for argument in description.get_launch_arguments()}


def default_of(argument: object) -> str:
    return "".join(part.text for part in argument.default_value)


@pytest.mark.parametrize("name", ["perception.launch.py", "demo.launch.py"])
def test_arguments_are_described(name: str) -> None:
    for argument in arguments(name).values():
        assert argument.description
        assert argument.description != "no description given"


def test_defaults_are_the_nodes() -> None:
    """So it makes no difference that arguments that were not given do not reach the node."""
    found = arguments("perception.launch.py")
    defaults = {spec.name: spec.default for spec in PARAMETERS}
    for name, argument in found.items():
        if name in OF_LAUNCH:
            continue
        if name in OF_CAMERA:
            assert default_of(argument) == OF_CAMERA[name]
        else:
            assert yaml.safe_load(default_of(argument)) == defaults[name], name


def launch(*arguments: str, file: str = "perception.launch.py") -> str:
    """What `ros2 launch` prints for a model that is nowhere: the node says which, and ends."""
    done = subprocess.run(
        ["ros2", "launch", "svd_vlm_ros", file, *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "model"),
    [([], "nobody/in-file"), (["model:=nobody/given"], "nobody/given")],
)
@pytest.mark.parametrize("section", ["/**", "/perception", "perception"])
def test_what_is_given_goes_before_the_file(
    ros_domain: int, tmp_path: Path, section: str, given: list[str], model: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({section: {"ros__parameters": {"model": "nobody/in-file"}}}))
    output = launch(f"params_file:={file}", *given)
    assert f"svd-vlm download {model}'" in output
    assert "model:=scout" in output


@pytest.mark.parametrize(
    ("file", "argument", "kind"),
    [
        ("perception.launch.py", "visual_tokens", "whole"),
        ("perception.launch.py", "energy", "number"),
        ("demo.launch.py", "visual_tokens", "whole"),
        ("demo.launch.py", "rate", "number"),
        ("demo.launch.py", "seed", "whole"),
    ],
)
def test_a_number_that_is_none_is_refused_by_name(
    ros_domain: int, file: str, argument: str, kind: str
) -> None:
    output = launch(f"{argument}:=abc", file=file)
    assert f"{argument}:=abc cannot be: give a {kind}" in output
