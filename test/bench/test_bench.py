# SPDX-License-Identifier: Apache-2.0
"""The benchmark on models that take a second: every number is there, and means what it says."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from svd_vlm_ros.bench import run, selectors
from svd_vlm_ros.bench.answers import Row, make_image, read_rows, select_tokens
from svd_vlm_ros.bench.limits import row_limits
from svd_vlm_ros.bench.machine import Machine
from svd_vlm_ros.bench.memory import Peak, in_use
from svd_vlm_ros.bench.report import add_speedups, markdown, tables
from svd_vlm_ros.bench.samples import Spread
from svd_vlm_ros.bench.stock import Stock
from svd_vlm_ros.cli.bench import _BENCH
from svd_vlm_ros.cli.main import app
from svd_vlm_ros.cli.processes import environment
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.known import find_sizes
from svd_vlm_ros.planning.memory import Floats

CPU = torch.device("cpu")
STAGES = {"preprocess", "vision", "select", "project", "prefill", "first_token", "token", "answer"}


@pytest.fixture(scope="module")
def few_selectors():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selectors, "selector_names", lambda _: ["svd", "grid", "tome"])
        yield


@pytest.fixture(scope="module")
def measured(few_selectors):
    """A record of random:tiny, and the words of its steps with how many were announced."""
    steps: list[str] = []
    announced: list[int] = []

    def watch(count):
        announced.append(count)
        return steps.append

    settings = run.BenchSettings(
        "random:tiny", "fp32", "cpu", rows="stock,576,16", rounds=2, answer_tokens=4
    )
    return run.measure(settings, watch), steps, announced[0]


def test_a_record_is_whole_and_plain(measured):
    record, _, _ = measured
    assert json.loads(json.dumps(record)) == record
    assert [row["name"] for row in record["answers"]] == ["stock", "576", "16"]
    for row in record["answers"]:
        seconds = row["seconds"]
        assert set(seconds) == STAGES | {"yes_no"}
        assert all(each["runs"] == 2 for each in seconds.values())
        for each in seconds.values():
            assert 0 <= each["low"] <= each["median"] <= each["high"]
        median = {name: each["median"] for name, each in seconds.items()}
        assert median["vision"] + median["prefill"] < median["first_token"] * 1.2
        assert median["answer"] > median["first_token"] > 0
        assert row["frames_per_second"] == pytest.approx(1 / median["answer"])
        assert row["peak_bytes"] > record["memory"]["weights"]
        assert row["kernel_seconds"] is None
    stock, everything, fewest = record["answers"]
    assert stock["prompt_tokens"] == everything["prompt_tokens"] == fewest["prompt_tokens"] + 560
    assert stock["seconds"]["select"]["high"] == 0
    assert fewest["token_bytes"] < everything["token_bytes"]
    assert record["memory"]["loaded"] <= record["memory"]["loading_peak"] * 1.01
    assert record["random_weights"] is True


def test_the_rows_take_turns(measured):
    _, steps, announced = measured
    rounds = [step for step in steps if step.startswith("round")]
    assert [step.partition(": ")[2] for step in rounds] == [
        "stock, 576",
        "576 tokens",
        "16 tokens",
    ] * 2
    assert len(steps) <= announced


def test_selectors_are_measured_or_say_why_not(measured):
    seconds = measured[0]["selectors"]["seconds"]
    assert 0 < seconds["grid"] < seconds["svd"]
    assert "tower" in seconds.get("tome", "tower")


def test_questions_hold_together(measured):
    seconds = {k: v["median"] for k, v in measured[0]["questions"]["seconds"].items()}
    for kind in ("choose", "ask"):
        assert 0 < seconds[f"{kind}_next"] < seconds[f"{kind}_turn"]
        assert seconds[f"{kind}_next"] == pytest.approx(seconds[f"{kind}_turn"] / 8)
        assert seconds[f"{kind}_first"] > 0
        assert seconds[f"{kind}_together"] > 0


def test_tables_name_every_row(measured):
    record = json.loads(json.dumps(measured[0]))
    other = json.loads(json.dumps(measured[0]))
    other["settings"]["precision"] = "int8"
    add_speedups([record, other])
    assert record["answers"][0]["speedup"] == {"first_token": 1.0, "answer": 1.0, "yes_no": 1.0}
    expected = (
        record["answers"][0]["seconds"]["answer"]["median"]
        / other["answers"][2]["seconds"]["answer"]["median"]
    )
    assert other["answers"][2]["speedup"]["answer"] == pytest.approx(expected)
    made = tables([record, other])
    assert len(made) == 1 + 2 * 4 + 1
    assert all(len(row) == len(table.columns) for table in made for row in table.rows)
    text = markdown([record, other], "svd-vlm bench")
    assert "| stock 576 |" in text
    assert "**int8: what it is worth**" in text


def test_without_a_stock_row_nothing_is_compared(measured):
    record = json.loads(json.dumps(measured[0]))
    record["answers"] = record["answers"][1:]
    add_speedups([record])
    assert "speedup" not in record["answers"][0]
    assert tables([record])


def test_stock_and_engine_share_weights_and_tokens():
    """Stock is transformers' model itself; its prompt is the engine's; its hooks are gone after."""
    engine = SceneEngine.load("random:tiny", precision="fp32", device="cpu")
    loaded = engine.loaded
    stock = Stock(loaded)
    assert stock._model is loaded.model
    image = make_image(336, 336)
    taken = stock.answer(image, "Is the path clear?", 3)
    select_tokens(engine, 576, 576, "svd")
    assert engine.info.selector == "none"
    answer = engine.ask(engine.see(image), "Is the path clear?", max_new_tokens=3)
    assert taken["prompt_tokens"] == answer.prompt_tokens
    assert not loaded.model.model.vision_tower._forward_hooks
    select_tokens(engine, 16, 576, "svd")
    assert (engine.info.selector, engine.info.visual_tokens) == ("svd", 16)


def test_scout_may_end_its_answers_early():
    settings = run.BenchSettings(
        "scout", "fp32", "cpu", rows="64", rounds=1, answer_tokens=8, tables="answers"
    )
    record = run.measure(settings, lambda _: lambda _: None)
    seconds = {k: v["median"] for k, v in record["answers"][0]["seconds"].items()}
    assert seconds["answer"] == pytest.approx(seconds["first_token"] + 7 * seconds["token"])
    assert record["random_weights"] is False


def test_limits_are_those_of_the_arithmetic():
    machine = Machine("m", 1, 8e9, 10e9, 1e12, "bfloat16", "2")
    asked = {"image": (336, 336), "visual_tokens": 16, "prompt_tokens": 66, "answer_tokens": 16}
    found = row_limits(
        *(find_sizes("llava-1.5-7b"), "bf16", Floats(2, 2), machine),
        **asked,
        first_token=2.0,
        token=2.0,
    )
    assert found["token_bytes"] == pytest.approx(13.21e9 + 74 * 524_288, rel=0.001)
    assert found["bandwidth_share"] == pytest.approx(found["token_bytes"] / 2.0 / 10e9)
    assert found["operations"] == pytest.approx(2 * 0.610e12, rel=0.01)
    assert found["limit"] == "bandwidth"
    assert found["roofline_ratio"] == pytest.approx(32 / found["roofline"])
    slow = row_limits(
        find_sizes("llava-1.5-7b"),
        "int4",
        Floats(2, 4),
        Machine("m", 1, 100e9, 100e9, 1e11, "bfloat16", "2"),
        **asked,
        first_token=20.0,
        token=0.1,
    )
    assert slow["limit"] == "arithmetic"


def test_peaks_are_of_their_own_phase():
    size = 64 << 20
    with Peak(CPU) as large:
        np.ones(size, np.uint8)
    with Peak(CPU) as small:
        pass
    if large.bytes == 0:
        pytest.skip("this system has no high water of a process's memory")
    assert large.bytes - in_use(CPU) > size // 2
    assert small.bytes < large.bytes - size // 2


def test_rows_are_read():
    assert read_rows("stock, 576,16,16", 576) == [Row("stock", 576), Row("576", 576), Row("16", 16)]
    assert [row.name for row in read_rows("", 49)] == ["stock", "49", "32", "16"]
    for text in ("stock,", "stock,0", "577", "all", "-3"):
        with pytest.raises(UserError, match="There is no row"):
            read_rows(text, 576)


def test_spreads():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)


def test_images_are_alike():
    image = make_image(60, 100)
    assert image.shape == (60, 100, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, make_image(60, 100))


@pytest.mark.timeout(400)  # three processes
def test_the_command_writes_its_tables_after_each_precision(svd_vlm, tmp_path):
    ran = svd_vlm(
        *("bench", "--model", "random:tiny", "--precision", "fp32,int8", "--rows", "stock,16"),
        *("--rounds", "1", "--answer-tokens", "2", "--device", "cpu", "--tables", "answers"),
        *("--save", tmp_path / "a" / "b"),
        timeout=390,
    )
    assert ran.status == 0, ran.err
    assert "int8: what it is worth" in ran.out
    written = json.loads((tmp_path / "a" / "b.json").read_text())
    assert [r["settings"]["precision"] for r in written["records"]] == ["fp32", "int8"]
    assert written["records"][1]["answers"][1]["speedup"]["answer"] > 0
    assert written["command"].startswith("svd-vlm bench --model random:tiny")
    assert "| stock 576 |" in (tmp_path / "a" / "b.md").read_text()


@pytest.mark.timeout(400)  # three processes
def test_stock_in_another_precision_is_measured_once(svd_vlm):
    """In a process of its own, which starts no further one."""
    ran = svd_vlm(
        *("bench", "--model", "random:tiny", "--precision", "fp32", "--stock", "bf16"),
        *("--rounds", "1", "--answer-tokens", "2", "--device", "cpu", "--tables", "answers"),
        "--json",
        timeout=390,
    )
    assert ran.status == 0, ran.err
    stock, ours = json.loads(ran.out)
    assert [row["name"] for row in stock["answers"]] == ["stock"]
    assert "stock" not in [row["name"] for row in ours["answers"]]
    assert ours["answers"][0]["speedup"]["answer"] > 0


def test_a_checkout_in_the_current_folder_is_not_measured(tmp_path):
    decoy = tmp_path / "svd_vlm_ros"
    decoy.mkdir()
    (decoy / "__init__.py").write_text("raise SystemExit('not the installed package')")
    command = [sys.executable, "-c", _BENCH, "bench", "--help"]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "--precision" in ran.stdout


def test_what_was_measured_is_not_lost_with_what_fails(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise UserError("The questions fail.")

    monkeypatch.setattr(run, "measure_questions", fail)
    ran = CliRunner().invoke(
        app,
        [
            *("bench", "--model", "random:tiny", "--precision", "fp32", "--rows", "stock,16"),
            *("--rounds", "1", "--answer-tokens", "2", "--device", "cpu"),
            *("--save", str(tmp_path / "kept")),
        ],
    )
    assert ran.exit_code == 1
    assert "fp32: what it is worth" in ran.stdout
    assert json.loads((tmp_path / "kept.json").read_text())["records"][0]["answers"]


def test_tables_need_no_torch():
    code = "import sys, svd_vlm_ros.bench.report\nassert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], cwd="/", timeout=60, check=True)


def test_mistakes_of_the_command():
    def status(*arguments):
        return CliRunner().invoke(app, ["bench", "--model", "random:tiny", *arguments]).exit_code

    assert status("--precision", "int2") == 2
    assert status("--rounds", "0") == 2
    assert status("--tables", "chairs") == 1
    assert status("--rows", "stock,1000", "--precision", "fp32") == 1
    assert CliRunner().invoke(app, ["bench", "--model", "random:huge"]).exit_code == 1
