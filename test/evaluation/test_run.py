# SPDX-License-Identifier: Apache-2.0
"""Whole runs with scout: killed and gone on, in shares, on broken data, and their page."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from svd_vlm_ros.cli import eval as eval_command
from svd_vlm_ros.cli.main import app
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.catalog import open_task
from svd_vlm_ros.evaluation.cells import Cell
from svd_vlm_ros.evaluation.finishing import finish, weights_hash
from svd_vlm_ros.evaluation.records import Folder, read_folder, shard_path
from svd_vlm_ros.evaluation.report import report_html
from svd_vlm_ros.evaluation.runner import run_shard
from svd_vlm_ros.evaluation.runs import Run

pytestmark = pytest.mark.timeout(400)  # whole runs, and a process's start, on a busy machine

SELECTORS = ("none", "svd", "visionzip", "trim", "fastv")
CONDITIONS = ("clean", "fog 3", "rephrased")


def scout_run(out: Path) -> Run:
    return Run(
        task=open_task("scout", images=2),
        model="scout",
        precisions=("bf16",),
        selectors=SELECTORS,
        budgets=(16,),
        conditions=CONDITIONS,
        out=out,
        weights=weights_hash("scout"),
        device="cpu",
    )


def complete(run: Run) -> Folder:
    _, cells = run_shard(run)
    assert finish(run.out, cells, {item.id: item.image for item in run.task.items}).lacking == 0
    return read_folder(run.out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Folder]:
    """A run that nothing interrupted."""
    run = replace(scout_run(tmp_path_factory.mktemp("whole")), times=1)
    return run, complete(run)


def test_every_possible_cell_is_filled(whole: tuple[Run, Folder]) -> None:
    run, folder = whole
    questions = {item.id for item in run.task.items}

    filled = {Cell.from_key(key): set(answers) for key, answers in folder.answers.items()}
    assert {(c.selector, c.condition) for c in filled} == {
        (name, condition) for name in SELECTORS[:-1] for condition in CONDITIONS
    }
    assert all(answered == questions for answered in filled.values())
    assert {cell.tokens for cell in filled if cell.selector == "none"} == {576}
    read = {scored.tokens for scored in folder.answers["bf16/svd/16/clean"].values()}
    assert read == {16.0}


def test_an_impossible_budget_leaves_a_reason(whole: tuple[Run, Folder]) -> None:
    run, folder = whole
    reason = folder.refused["bf16/fastv/16/clean"].popitem()[1]
    assert "16" in reason
    assert reason in (run.out / "table.md").read_text()


def test_another_way_of_asking_gives_other_answers(whole: tuple[Run, Folder]) -> None:
    _, folder = whole

    def texts(key: str) -> list[str]:
        return [scored.answer for scored in folder.answers[key].values()]

    assert texts("bf16/none/576/clean") != texts("bf16/none/576/fog 3")
    assert texts("bf16/none/576/clean") != texts("bf16/none/576/rephrased")
    right = sum(scored.score for scored in folder.answers["bf16/none/576/clean"].values())
    assert right >= 0.6 * len(folder.answers["bf16/none/576/clean"])


def test_times_are_of_one_question_alone(whole: tuple[Run, Folder]) -> None:
    _, folder = whole
    assert set(folder.times) == {
        "bf16/none/576/clean",
        "bf16/svd/16/clean",
        "bf16/visionzip/16/clean",
        "bf16/trim/16/clean",
    }
    line = folder.times["bf16/svd/16/clean"][0]
    assert 0 < line["first_token"] <= line["total"]


def test_the_page_shows_what_was_kept_and_answered(whole: tuple[Run, Folder]) -> None:
    run, _ = whole
    folder = read_folder(run.out)
    assert len(folder.looks) == 2 * 4

    text = report_html(run.out, folder)

    assert text.count("<image ") == 2
    assert text.count('href="data:image/jpeg;base64,') == 2
    assert text.count('<use href="#p0"/>') == 3  # svd, visionzip, trim
    kept = next(x for x in folder.looks if x["cell"] == "bf16/svd/16/clean")
    assert len(kept["kept"]) == 16
    assert kept["merged"] == {}
    assert "16 patches kept" in text
    merging = next(x for x in folder.looks if x["cell"] == "bf16/visionzip/16/clean")
    assert merging["merged"]
    assert "tokens merged from" in text
    assert all(item.question in text for item in run.task.items[:1])


def test_a_killed_run_goes_on_to_the_same_answers(
    whole: tuple[Run, Folder], tmp_path: Path
) -> None:
    _, folder = whole
    command = [
        *(sys.executable, "-m", "svd_vlm_ros.cli.main", "eval", "--task", "scout"),
        *("--selectors", ",".join(SELECTORS), "--visual-tokens", "16", "--pictures", "2"),
        *("--corruptions", "fog", "--rephrase", "--device", "cpu", "--out", str(tmp_path)),
    ]
    path = shard_path(tmp_path, 0)
    process = subprocess.Popen(
        command, cwd="/", stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        until = time.monotonic() + 300
        while not (path.exists() and path.read_bytes().count(b'"answer"') > 20):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = path.read_bytes()
    lost = sum(map(len, folder.answers.values())) - left.count(b'"record": "answer"')
    assert lost > 0
    path.write_bytes(left[:-7])  # as if the kill had come in the middle of a line

    resumed = complete(scout_run(tmp_path))

    assert resumed.answers == folder.answers
    assert resumed.duplicates == 0
    assert resumed.broken == []
    whole_lines = left[: left[:-7].rfind(b"\n") + 1]
    assert path.read_bytes().startswith(whole_lines)  # nothing that was there is done again


def test_shares_make_the_same_answers(whole: tuple[Run, Folder], tmp_path: Path) -> None:
    _, folder = whole
    run = replace(scout_run(tmp_path), selectors=("svd",), conditions=("clean",))
    questions = {item.id: item.image for item in run.task.items}

    _, cells = run_shard(replace(run, rank=1, world=2))
    assert finish(tmp_path, cells, questions).lacking > 0
    _, cells = run_shard(replace(run, rank=0, world=2))
    assert finish(tmp_path, cells, questions).lacking == 0

    key = "bf16/svd/16/clean"
    assert read_folder(tmp_path).answers[key] == folder.answers[key]
    files = {path.name for path in tmp_path.glob("answers-*")}
    assert files == {"answers-00.jsonl", "answers-01.jsonl"}

    # One process alone finds nothing left to do, and other settings are refused.
    before = shard_path(tmp_path, 0).read_bytes()
    complete(run)
    assert shard_path(tmp_path, 0).read_bytes() == before
    with pytest.raises(UserError, match="seed: 0, not 5"):
        run_shard(replace(run, seed=5))


def test_a_broken_image_costs_its_questions_alone(tmp_path: Path) -> None:
    import cv2

    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    questions = {}
    scout = open_task("scout", images=3)
    for number, (key, items) in enumerate(scout.images().items()):
        path = data / "images" / f"{key}.jpg"
        cv2.imwrite(str(path), scout.read(key))
        if number == 1:
            path.write_bytes(path.read_bytes()[:-100])
        questions[str(number)] = {
            "question": items[0].question,
            "imageId": key,
            "answer": items[0].truth[0],
        }
    questions["gone"] = {"question": "is there a tree?", "imageId": "none", "answer": "yes"}
    (data / "testdev_balanced_questions.json").write_text(json.dumps(questions))

    done = CliRunner().invoke(
        app,
        [
            *("eval", "--task", "gqa", "--data", str(data), "--out", str(tmp_path / "out")),
            *("--selectors", "grid", "--visual-tokens", "16", "--device", "cpu"),
        ],
    )

    assert done.exit_code == 0, done.output
    assert "1 images are missing (none): their 1 questions are not asked." in done.stderr
    assert "Images that could not be read: 10000001." in done.stdout
    folder = read_folder(tmp_path / "out")
    assert set(folder.answers["bf16/grid/16/clean"]) == {"0", "2"}
    assert "The end of" in folder.unread["10000001"]


def test_tables_are_made_again_without_running(whole: tuple[Run, Folder]) -> None:
    run, _ = whole
    table = (run.out / "table.md").read_text()

    done = CliRunner().invoke(app, ["eval", "--table", str(run.out)])
    figures = CliRunner().invoke(app, ["eval", "--table", str(run.out), "--json"])
    page = CliRunner().invoke(app, ["eval", "--report", str(run.out)])

    assert done.exit_code == 0
    assert done.stdout == table
    cells = json.loads(figures.stdout)["cells"]
    assert {cell["selector"] for cell in cells} == set(SELECTORS)
    assert page.exit_code == 0
    assert (run.out / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", "gqa"], "name its folder with --data"),
        (["--task", "scout", "--selectors", "svt"], "--selectors knows no 'svt'"),
        (["--task", "scout", "--corruptions", "rain"], "--corruptions knows no 'rain'"),
        (["--task", "scout", "--precision", "fp4"], "--precision knows no 'fp4'"),
        (["--task", "scout", "--model", "not/there"], "not on this machine"),
        (["--table", "/nowhere"], "There are no answers in /nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["eval", *arguments])
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--task", "scout", "--visual-tokens", "a"],
        ["--task", "scout", "--visual-tokens", "0"],
        ["--task", "scout", "--severities", "6"],
        ["--task", "scout", "--table", "x"],
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["eval", *arguments]).exit_code == 2


def test_a_log_shows_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no terminal is: a line for each cell, once, and one a minute from then on."""
    printed: list[str] = []
    monkeypatch.setattr(eval_command, "stderr", lambda: SimpleNamespace(print=printed.append))
    now = 0.0
    on_step = eval_command._lines(lambda: now)
    for done in range(6):
        for cell in ("bf16 svd 64", "bf16 atp 64"):
            on_step(cell, done, 12)
            on_step("", done, 12)
            now += 7.0
    assert printed == [
        "bf16 svd 64: 0 of 12 answers",
        "bf16 atp 64: 0 of 12 answers",
        "bf16 svd 64: 5 of 12 answers",
    ]
