# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm ask` and `describe` with random weights: shapes and sentences, not answers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from svd_vlm_ros.cli.main import app

TINY = ("--model", "random:tiny", "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def run():
    """Run `svd-vlm` in this process: torch is imported once for all tests."""

    def invoke(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def test_an_answer_for_people(run, photo: Path) -> None:
    ran = run("ask", photo, "what is it?", *TINY, "--max-new-tokens", 3)
    assert ran.exit_code == 0
    assert "192 of 576 visual tokens kept by svd-cover" in ran.stdout
    assert "random:tiny in fp32 on cpu" in ran.stdout
    for stage in ("vision tower", "tokens chosen", "projector", "answer written"):
        assert stage in ran.stdout
    assert ran.stderr.startswith("warning: random:tiny has random weights")


def test_an_answer_for_programs_with_choices(run, photo: Path) -> None:
    ran = run("ask", photo, "what is it?", *TINY, "--choices", "yes, no", "--json")
    assert ran.exit_code == 0
    record = json.loads(ran.stdout)
    assert record["answer"] in ("yes", "no")
    assert [choice["text"] for choice in record["choices"]] == ["yes", "no"]
    assert sum(choice["probability"] for choice in record["choices"]) == pytest.approx(1)
    assert record["confidence"] == max(choice["probability"] for choice in record["choices"])
    assert record["finish_reason"] == "choice"
    assert record["random_weights"] is True
    assert all(seconds >= 0 for seconds in record["seconds"].values())


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--visual-tokens", "16"], range(16, 17)),
        (["--visual-tokens", "1.0", "--token-cap", "40"], range(40, 41)),
        (["--visual-tokens", "0.05"], range(1, 192)),
        (["--selector", "none"], range(432, 577)),  # without the patches of padding
    ],
)
def test_budgets(run, photo: Path, options: list[str], kept: range) -> None:
    ran = run("ask", photo, "hm?", *TINY, "--max-new-tokens", 1, "--json", *options)
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["visual_tokens_kept"] in kept


def test_the_overlay_shows_the_kept_patches(run, photo: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.png"
    few = ("--visual-tokens", 64)
    ran = run("ask", photo, "hm?", *TINY, *few, "--max-new-tokens", 1, "--overlay", path)
    assert ran.exit_code == 0
    drawn = cv2.imread(str(path))
    assert drawn.shape[1] == 640
    assert drawn.shape[0] > 480  # the image, and a band with question and answer
    image = cv2.resize(cv2.imread(str(photo)), (640, 480), interpolation=cv2.INTER_CUBIC)
    coloured = image.any(axis=2)  # black stays black, kept or not
    bright = (drawn[:480] == image).all(axis=2)[coloured].mean()
    assert 0.05 < bright < 0.5  # 64 of the 432 patches that show something


def test_describe(run, photo: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.jpg"
    ran = run("describe", photo, *TINY, "--max-new-tokens", 2, "--json", "--overlay", path)
    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["answer_tokens"] <= 2
    assert path.is_file()
    own = run("describe", photo, *TINY, "--max-new-tokens", 2, "--prompt", "tell me of cats.")
    assert own.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ask", "/nowhere/photo.jpg", "hm?"], "There is no image /nowhere/photo.jpg"),
        (["describe", "/"], "/ is a folder"),
        (["ask", "PHOTO", ""], "question is empty"),
        (["ask", "PHOTO", "hm?", "--selector", "best"], "no selector 'best'"),
        (["ask", "PHOTO", "hm?", "--device", "abacus"], "no device 'abacus'"),
        (["ask", "PHOTO", "hm?", "--model", "nobody/nothing"], "svd-vlm download nobody/nothing"),
        (["ask", "PHOTO", "hm?", "--overlay", "/nowhere/kept.png"], "Can't write"),
    ],
)
def test_mistakes_get_one_line_and_status_1(
    run, photo: Path, arguments: list[str], sentence: str
) -> None:
    given = [str(photo) if argument == "PHOTO" else argument for argument in arguments]
    model = [] if "--model" in given else TINY
    ran = run(given[0], *model, "--max-new-tokens", 1, *given[1:])
    assert ran.exit_code == 1
    assert ran.stdout == ""
    errors = [line for line in ran.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert sentence in errors[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--visual-tokens", "0"],
        ["--visual-tokens", "1.5"],
        ["--visual-tokens", "many"],
        ["--visual-tokens", "nan"],
        ["--token-cap", "0"],
        ["--precision", "int2"],
        ["--choices", "yes"],
        ["--choices", "yes,,no"],
        ["--max-new-tokens", "0"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(run, photo: Path, arguments: list[str]) -> None:
    ran = run("ask", photo, "hm?", *arguments)
    assert ran.exit_code == 2
    assert ran.stdout == ""


def test_a_downloaded_model_answers_offline(svd_vlm, hub, photo: Path, tmp_path: Path) -> None:
    """A checkpoint on its way from the hub to an answer, each step in a process of its own."""
    hub.files = tiny_checkpoint(tmp_path / "made")
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    offline = svd_vlm("download", "test/tiny-llava", **settings, HF_HUB_OFFLINE="1")
    assert offline.status == 1
    assert len(offline.lines) == 1
    assert "HF_HUB_OFFLINE is set" in offline.lines[0]
    assert hub.asked == []

    fetched = svd_vlm("download", "test/tiny-llava", **settings, HF_HUB_OFFLINE="")
    assert (fetched.status, fetched.err) == (0, "")
    assert "test/tiny-llava is here and verified" in fetched.out
    assert str(tmp_path / "hf" / "hub") in fetched.out

    hub.asked.clear()
    asked = svd_vlm(
        *("ask", photo, "hm?", "--model", "test/tiny-llava", "--device", "cpu", "--json"),
        *("--precision", "fp32", "--max-new-tokens", 2),
        **settings,
        HF_HUB_OFFLINE="",  # the engine stays off the network by itself
    )
    assert asked.status == 0, asked.err
    assert json.loads(asked.out)["random_weights"] is False
    assert hub.asked == []


def tiny_checkpoint(folder: Path) -> dict[str, bytes]:
    """The files of a LLaVA-1.5 with random weights and scout's tokenizer."""
    from svd_vlm_ros.models.files import scout_folder
    from svd_vlm_ros.models.llava.loading import load_llava

    load_llava("random:tiny", precision="fp32", device="cpu").model.save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in scout_folder().iterdir():
        if path.suffix in (".json", ".jinja") and path.name not in files:
            files[path.name] = path.read_bytes()
    assert np.frombuffer(files["model.safetensors"][:8], "<u8") > 0
    return files
