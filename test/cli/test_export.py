# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm export`: from the command line to a folder, a table and a script."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from svd_vlm_ros.cli import export as commands
from svd_vlm_ros.cli.main import app

pytest.importorskip("onnx", reason="needs the extra [export]")
pytest.importorskip("onnxruntime", reason="needs the extra [export]")


def run(*words: object):
    return CliRunner().invoke(app, ["export", *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export by the command."""
    out = tmp_path_factory.mktemp("cli") / "scout"
    ran = run("onnx", "--out", out, "--precision", "fp32")
    assert ran.exit_code == 0, ran.output
    assert "scout in fp32, 21.9" in ran.stdout or "scout in fp32, 22.0" in ran.stdout
    assert "of memory" in ran.stdout
    return out


@pytest.mark.parametrize("command", ["onnx", "verify", "tensorrt"])
def test_every_command_has_help_with_an_example(command):
    ran = run(command, "--help")
    assert ran.exit_code == 0
    assert f"Example:  svd-vlm export {command}" in ran.stdout


def test_an_export_is_verified(folder):
    ran = run("verify", folder, "--question", "what is the ground?")
    assert ran.exit_code == 0, ran.output
    assert "The export agrees with the model." in ran.stdout
    assert "differs" not in ran.stdout


def test_the_verdict_is_the_exit_status(folder, monkeypatch):
    from svd_vlm_ros.export import verify

    rows = (verify.Row("logits", 0.5, 0.1, False, "std"), verify.Row("keys", 0.0, 0.1, True, "std"))
    report = verify.Report("scout", "fp32", "fp32", 1, 1, rows)
    monkeypatch.setattr(verify, "verify", lambda *args, **kwargs: report)
    ran = run("verify", folder, "--json")
    assert ran.exit_code == 1
    assert not json.loads(ran.stdout)["agrees"]
    assert "differs from scout in PyTorch: logits." in ran.stderr
    ran = run("verify", folder)
    assert ran.exit_code == 1
    assert "differs" in ran.stdout


def test_json_says_what_it_cost(tmp_path):
    ran = run("onnx", "--model", "random:tiny", "--out", tmp_path / "m", "--json")
    record = json.loads(ran.stdout)
    assert record["model"] == "random:tiny"
    assert record["bytes"] > 1e6
    assert record["peak_bytes"] > 1e7


def test_a_script_for_tensorrt(folder):
    ran = run("tensorrt", folder, "--context", 512)
    assert ran.exit_code == 0, ran.output
    assert (folder / "tensorrt" / "build.sh").is_file()
    assert "build.sh: builds the engines" in ran.stdout


def test_mistakes_end_in_one_line(folder, tmp_path):
    for words, sentence in (
        (("onnx", "--out", folder), "is not empty"),
        (("onnx", "--model", "nobody/nothing", "--out", tmp_path / "m"), "not on this machine"),
        (("verify", tmp_path), "manifest.json is missing"),
        (("tensorrt", tmp_path / "none"), "There is no folder"),
    ):
        ran = run(*words)
        assert ran.exit_code == 1
        assert ran.stdout == ""
        assert sentence in ran.stderr
        assert ran.stderr.count("\n") == 1


def test_without_the_extra_it_says_what_to_install(monkeypatch, tmp_path):
    import svd_vlm_ros.export as room

    monkeypatch.setattr(room, "NEEDS", ("no_such_library",))
    ran = run("onnx", "--out", tmp_path / "m")
    assert ran.exit_code == 1
    assert "pip install 'svd_vlm_ros[export]'" in ran.stderr


def test_the_scenes_are_images():
    assert [image.ndim for image in commands._scenes()] == [3, 3]
