# SPDX-License-Identifier: Apache-2.0
"""The door: help, version, exit statuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import svd_vlm_ros
from svd_vlm_ros.cli.console import gigabytes, milliseconds
from svd_vlm_ros.cli.main import app, typer_trouble
from svd_vlm_ros.cli.options import parse_visual_tokens

COMMANDS = ("ask", "bench", "demo", "describe", "doctor", "download", "flops", "plan")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    ran = CliRunner().invoke(app, [command, "--help"])
    assert ran.exit_code == 0
    assert f"Example:  svd-vlm {command}" in ran.stdout


def test_help_and_version() -> None:
    ran = CliRunner().invoke(app, ["--help"])
    assert ran.exit_code == 0
    assert all(command in ran.stdout for command in COMMANDS)
    assert "Example:" in ran.stdout
    assert CliRunner().invoke(app, ["--version"]).stdout == f"svd-vlm {svd_vlm_ros.__version__}\n"


def test_an_unknown_command_is_wrong_usage(svd_vlm) -> None:
    ran = svd_vlm("paint")
    assert ran.status == 2
    assert "No such command 'paint'" in ran.err
    assert ran.out == ""


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['svd-vlm', '--help']\n"
        "from svd_vlm_ros.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'rclpy', 'cv2', 'numpy', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True
    )
    assert done.stderr.strip() == "[]"


def test_budgets_differ_by_their_point() -> None:
    assert parse_visual_tokens("1") == 1
    assert isinstance(parse_visual_tokens("1"), int)
    assert isinstance(parse_visual_tokens("1.0"), float)
    assert parse_visual_tokens("0.9") == 0.9


def test_numbers_for_people() -> None:
    assert [milliseconds(s) for s in (0.00042, 0.0312, 2.345)] == ["0.4 ms", "31 ms", "2.35 s"]
    sizes = [gigabytes(s) for s in (14.13e9, 12.3e6, 820e3, 3)]
    assert sizes == ["14.13 GB", "12.3 MB", "820.0 kB", "3 bytes"]


def test_a_typer_that_is_too_old_for_its_click_is_one_sentence() -> None:
    assert "pip install 'typer>=0.16'" in typer_trouble("0.9.0", "8.5.1")
    assert typer_trouble("0.9.0", "8.1.6") == ""  # Ubuntu 24.04's own
    assert typer_trouble("0.29.2", "8.5.1") == ""
    assert typer_trouble("1.0rc1", "9.0") == ""
    assert typer_trouble("0.9.0", None) == ""
