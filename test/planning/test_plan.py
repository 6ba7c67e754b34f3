# SPDX-License-Identifier: Apache-2.0
"""Plans for a Jetson: near to what others have measured, exact in memory, clear in advice."""

import dataclasses
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from svd_vlm_ros.cli.main import app
from svd_vlm_ros.cpu import computes_bfloat16
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.devices import DEVICES, find_device
from svd_vlm_ros.planning.known import NAMES, find_sizes
from svd_vlm_ros.planning.memory import PRECISIONS, Floats, weight_parts
from svd_vlm_ros.planning.plan import Deployment, make_plan, matrix
from svd_vlm_ros.planning.published import EAGER, ENGINE, MEASUREMENTS
from svd_vlm_ros.planning.roofline import check, software


@pytest.mark.parametrize("checked", check(), ids=lambda c: f"{c.measurement.what} {c.error:+.0%}")
def test_near_to_what_was_published(checked, capsys):
    m = checked.measurement
    with capsys.disabled():
        print(
            f"\n  {m.what}, {m.device}, {m.runtime} {m.kind}: {m.shown}, error {checked.error:+.1%}"
        )
    if m.held:
        assert abs(checked.error) < 0.35
        # Nor is it near only because it was solved from that very number.
        assert checked.unseen_error is None or abs(checked.unseen_error) < 0.35
    else:
        assert m.note  # says what the report leaves open


def test_efficiencies_are_in_the_range_that_the_reports_give():
    assert 0.43 <= software(ENGINE).compute <= 0.45
    assert 0.6 <= software(ENGINE).memory <= 0.88
    assert software(ENGINE).launch == 0
    assert 1e-3 < software(EAGER).launch < 4e-3


def test_every_module_has_a_source():
    for key, device in DEVICES.items():
        assert device.key == key
        assert device.source
        assert not device.super_mode or DEVICES[device.super_mode].memory_gb == device.memory_gb
    assert all(m.source and m.device in DEVICES for m in MEASUREMENTS)


def test_weights_by_part():
    model = find_sizes("llava-1.5-7b")
    sizes = {p: sum(part.bytes for part in weight_parts(model, p)) / 1e9 for p in PRECISIONS}
    assert sizes == pytest.approx(
        {"fp32": 28.25, "bf16": 14.13, "fp16": 14.13, "int8": 7.65, "int4": 4.52}, abs=0.01
    )


PLAN_HERE = ["plan", "--device", "this", "--model", "llava-1.5-7b"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_those_that_are_loaded(precision):
    from svd_vlm_ros.models.llava.loading import load_llava
    from svd_vlm_ros.models.weights.precision import weight_bytes
    from svd_vlm_ros.planning.configurations import sizes_from_config

    model = load_llava("random:tiny", precision=precision, device="cpu").model
    sizes = sizes_from_config("tiny", model.config.to_dict())
    quantized = precision in ("int8", "int4")
    floats = Floats(matrix=4, activation=4) if quantized and not computes_bfloat16() else None
    parts = weight_parts(sizes, precision, floats)
    # Buffers and bitsandbytes' code tables come on top; in a model this small they show.
    assert sum(part.bytes for part in parts) == pytest.approx(weight_bytes(model), rel=0.03)


@pytest.mark.parametrize(
    ("device", "precision", "tokens", "fits"),
    [
        ("orin-nx-16", "fp16", 16, "no"),  # the paper: out on 16 GB and less
        ("orin-nx-16", "int8", 576, "yes"),
        ("orin-nx-8", "int8", 16, "no"),
        ("orin-nano-8", "int4", 16, "tight"),
        ("orin-nano-4", "int4", 16, "no"),  # the paper hopes for it; 4.5 GB of weights do not
        ("agx-orin-32", "fp16", 576, "yes"),
    ],
)
def test_what_fits(device, precision, tokens, fits):
    plan = make_plan(Deployment(device, precision, tokens))
    assert plan.fits == fits
    assert plan.needed_bytes == sum(part.bytes for part in plan.parts)
    assert (plan.limit == "memory") == (fits == "no")


def test_fewer_tokens_and_fewer_bits_are_never_slower():
    plans = matrix(Deployment("orin-nx-16"))
    times = {(p.device.key, p.deployment.precision, p.deployment.visual_tokens): p for p in plans}
    for (device, precision, tokens), plan in times.items():
        fewer = times.get((device, precision, {576: 192, 192: 64, 64: 16}.get(tokens, 0)))
        if fewer:
            assert fewer.prefill <= plan.prefill
            assert fewer.token < plan.token
            assert fewer.needed_bytes < plan.needed_bytes
        less = times.get((device, {"fp16": "int8", "int8": "int4"}.get(precision, ""), tokens))
        if less:
            assert less.token < plan.token
            assert less.first_token <= plan.first_token


def test_cameras_cost_time_and_memory():
    one, three = (make_plan(Deployment("orin-nx-16", "int4", 64, cameras=n)) for n in (1, 3))
    assert three.camera_period == pytest.approx(3 * one.camera_period)
    assert three.needed_bytes - one.needed_bytes == 2 * (64 + 50) * 524_288
    assert one.answer == pytest.approx(one.first_token + 15 * one.token)


def test_unpacked_nf4_puts_a_floor_under_reading():
    """About 150 ms on AGX Orin, whatever is pruned; int8 has none."""
    floor = {
        p: make_plan(Deployment("agx-orin-64", p, 1, text_tokens=5, software=EAGER)).prefill
        - 32 * software(EAGER).launch
        for p in ("int4", "int8")
    }
    assert 0.13 < floor["int4"] < 0.21
    assert floor["int8"] < 0.06


def test_cosmos_reason2_on_an_orin_nano_is_near_to_what_was_measured():
    """By TensorRT Edge-LLM: 60 tokens/s, 494 visual tokens, 4.55 GB of the whole system.

    In power mode MAXN_SUPER, which the report's own instructions set: 102 GB/s, not 68.
    """
    told = dataclasses.replace(
        Deployment("orin-nano-8-super", "int4", 494, model="Qwen/Qwen3-VL-2B-Instruct"),
        image=(608, 832),
        text_tokens=18,
        answer_tokens=128,
    )
    plan = make_plan(told)
    assert 1 / plan.token == pytest.approx(60, rel=0.35)
    assert plan.needed_bytes == pytest.approx(4.55e9, rel=0.35)
    assert plan.vision == pytest.approx(0.208, rel=0.35)
    assert plan.prefill == pytest.approx(0.211, rel=0.35)
    assert {round(1 / m.seconds): m.used_bytes for m in plan.measured} == {
        60: 4.55e9,
        56: 6.9e9,
        38: 0.0,
    }
    # Without Super it is the same memory at two thirds of the bandwidth.
    slower = make_plan(dataclasses.replace(told, device="orin-nano-8"))
    assert slower.token == pytest.approx(1.5 * plan.token, rel=0.01)
    # A user who does not know of power modes still gets a plan that is good for a decision.
    plain = make_plan(Deployment("orin-nano-8", "int4", 64, model="Qwen/Qwen3-VL-2B-Instruct"))
    assert 1 / plain.token == pytest.approx(60, rel=0.35)
    assert plain.needed_bytes == pytest.approx(4.3e9, rel=0.35)
    assert slower.needed_bytes == plan.needed_bytes
    assert slower.measured == plan.measured
    assert (
        make_plan(dataclasses.replace(told, model="nvidia/Cosmos-Reason2-2B")).token == plan.token
    )


def test_a_larger_image_costs_the_tower_and_pruning_does_not_help_there():
    small, large = (
        make_plan(Deployment("orin-nx-16", model="qwen3-vl-2b", image=image))
        for image in ((480, 640), (720, 1280))
    )
    assert (small.view.patches, large.view.patches) == (1200, 3520)
    assert large.vision > 2.9 * small.vision
    assert large.prefill == small.prefill  # 64 tokens of each
    square = [
        make_plan(Deployment("orin-nx-16", image=image)).vision for image in ((480, 640), (9, 9))
    ]
    assert square[0] == square[1]  # LLaVA-1.5 sees all images in one size


@pytest.mark.parametrize("name", NAMES)
def test_every_known_model_has_a_plan(name):
    plans = matrix(Deployment("orin-nx-16", model=name, visual_tokens=16))
    assert all(plan.token > 0 and plan.needed_bytes > plan.parts[-1].bytes for plan in plans)
    assert max(plan.deployment.visual_tokens for plan in plans) == plans[0].view.tokens


@pytest.mark.parametrize(
    ("wanted", "advice"),
    [
        (Deployment("orin-nano-8", "int4", 64), "The power mode Super"),
        (Deployment("orin-nx-16-super", "int4", 576), "Keeping"),
        (Deployment("orin-nx-16", "fp16", 16), "Quantizing to int8 makes it fit"),
        (Deployment("orin-nano-8", "int4", 64, desktop=True), "without a desktop"),
        (Deployment("orin-nano-4", "int4", 16), "The module Orin Nano 8 GB makes it fit"),
        (Deployment("thor-t5000", "int4", 16), "Nothing in the table"),
    ],
)
def test_advice_is_the_cheapest_that_helps(wanted, advice):
    assert advice.lower() in make_plan(wanted).advice.lower()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"device": "tx2"}, "There is no device 'tx2': take one of agx-orin-64, "),
        ({"precision": "int2"}, "There is no precision 'int2': take one of fp32, "),
        ({"model": "gpt"}, "There is no model 'gpt'"),
        ({"software": "magic"}, "There is no software 'magic'"),
        ({"visual_tokens": 577}, "1 to 576 visual tokens"),
        ({"cameras": 0}, "cameras must be 1 or more"),
        ({"image": (0, 640)}, "An image can't be 640x0 pixels large"),
        ({"model": "qwen3-vl-2b", "image": (4, 900)}, "An image of 900x4 is too long"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_choices(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        make_plan(dataclasses.replace(Deployment("orin-nx-16"), **changes))


def test_devices_may_be_written_otherwise():
    assert find_device("Orin_NX_16").key == "orin-nx-16"


def test_the_command():
    def run(*arguments):
        return CliRunner().invoke(app, ["plan", *arguments])

    ran = run("--device", "orin-nx-16", "--visual-tokens", "16", "--cameras", "3", "--json")
    record = json.loads(ran.stdout)
    assert record["fits"] == "yes"
    assert record["bytes"]["decoder"] == pytest.approx(3.34e9, rel=0.01)
    assert record["seconds"]["camera_period"] == pytest.approx(3 * record["seconds"]["answer"])
    shown = run("--device", "orin-nano-8", "--visual-tokens", "576").stdout
    assert "It does not fit" in shown
    assert "What would help:" in shown
    assert "tokens/s" in run("--device", "orin-nx-16").stdout
    assert "error" in run("--check").stdout
    assert len(json.loads(run("--check", "--json").stdout)) == len(MEASUREMENTS)
    assert len(json.loads(run("--all", "--json").stdout)) == len(DEVICES) * 3 * 4
    table = run("--all").stdout
    assert all(key in table for key in DEVICES)
    vision = run("--device", "orin-nano-8", "--model", "Qwen/Qwen3-VL-2B-Instruct")
    assert "64 of 300 visual tokens" in vision.stdout
    assert "1200 patches" in vision.stdout
    assert "Measured by others on Orin Nano 8 GB Super: 59.8 tokens/s in 4.55 GB" in vision.stdout
    wide = ("--device", "orin-nano-8", "--model", "qwen3-vl-2b", "--image", "1280x720")
    record = json.loads(run(*wide, "--json").stdout)
    assert record["view"] == {"patches": 3520, "tokens": 880, "tiles": 1, "newlines": 0}
    assert record["image"] == "1280x720"
    assert [round(m["tokens_per_second"]) for m in record["measured"]] == [60, 56, 38]
    for wrong in ("big", "640", "0x480", "640x", "-1x4"):
        assert run("--device", "orin-nano-8", "--image", wrong).exit_code == 2
    unknown = run("--device", "orin-nano-8", "--model", "gpt")
    assert unknown.exit_code == 1
    assert unknown.stderr.count("\n") == 1
    assert "take one of llava-1.5-7b, " in unknown.stderr
    assert run().exit_code == 2
    assert run("--device", "tx2").exit_code == 1


def test_planning_imports_no_torch():
    code = (
        "import sys\n"
        "from svd_vlm_ros.planning.plan import Deployment, matrix\n"
        "assert len(matrix(Deployment('orin-nx-16'))) > 100\n"
        "ours = {m for m in sys.modules if m.startswith('svd_vlm_ros.')}\n"
        "others = {m for m in ours if 'planning' not in m and m != 'svd_vlm_ros.errors'}\n"
        "assert not others, others\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd="/", timeout=60, check=True)


def test_this_cpu_is_planned_from_one_layer(monkeypatch, tmp_path):
    from svd_vlm_ros.models.weights import layer_speed

    speeds = {"fp32": (0.05, 0.01, 0.01), "bf16": (0.05, 0.006, 0.01)}
    speeds |= {"int8": (0.02, 0.002, 0.01), "int4": (0.02, 0.001, 0.01)}
    monkeypatch.setattr(
        layer_speed,
        "_measure",
        lambda _, some, stock: {each: layer_speed.LayerSpeed(*speeds[each]) for each in some},
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    few, many = (
        json.loads(CliRunner().invoke(app, [*PLAN_HERE, "--json", *more]).stdout)
        for more in (("--visual-tokens", "16"), ("--visual-tokens", "576"))
    )
    rows = {row["precision"]: row for row in few["precisions"]}
    assert next(iter(rows)) == "int4"  # the fastest first
    assert rows["int4"]["bytes"] < rows["int8"]["bytes"] < rows["fp32"]["bytes"]
    for row in rows.values():
        assert row["answer"] == pytest.approx(row["first_token"] + 15 * row["token"])
    assert many["precisions"][0]["first_token"] > 3 * few["precisions"][0]["first_token"]
    shown = CliRunner().invoke(app, PLAN_HERE).stdout
    assert "on this CPU" in shown
    assert f"precision auto takes {few['auto']}" in shown
    wrong = CliRunner().invoke(app, [*PLAN_HERE, "--visual-tokens", "577"])
    assert wrong.exit_code != 0
    qwen = ["plan", "--device", "cpu", "--model", "qwen3-vl-2b", "--json", "--image"]
    vga, hd = (
        json.loads(CliRunner().invoke(app, [*qwen, size]).stdout)
        for size in ("640x480", "1280x720")
    )
    assert (vga["patches"], vga["visual_tokens_total"]) == (1200, 300)
    assert (hd["patches"], hd["visual_tokens_total"]) == (3520, 880)
    # As many tokens are read of both; the tower encodes all of the larger one.
    assert hd["precisions"][0]["first_token"] > 1.5 * vga["precisions"][0]["first_token"]
    assert hd["precisions"][0]["token"] == vga["precisions"][0]["token"]
