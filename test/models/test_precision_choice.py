# SPDX-License-Identifier: Apache-2.0
"""`precision: auto`: the fastest that fits, measured once, and the advice about another one."""

import json

import pytest
import torch

from svd_vlm_ros import cpu
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models import find_sizes
from svd_vlm_ros.models.weights import layer_speed, precision_choice
from svd_vlm_ros.models.weights.layer_speed import LayerSpeed, cache_file, layer_speeds
from svd_vlm_ros.models.weights.precision_choice import choose_precision, cpu_bytes, cpu_candidates
from svd_vlm_ros.planning.known import find_sizes as planned_sizes

CPU = torch.device("cpu")
LLAVA = planned_sizes("llava-1.5-7b")
TINY = find_sizes("random:tiny")


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def measured(monkeypatch):
    """Sets the speeds that a measurement gives, and notes which precisions were measured."""
    asked = []

    def set_speeds(**seconds):
        def measure(model, precisions, stock):
            asked.append(tuple(precisions))
            return {each: LayerSpeed(*seconds[each]) for each in precisions}

        monkeypatch.setattr(layer_speed, "_measure", measure)
        monkeypatch.setattr(precision_choice, "computes_bfloat16", lambda: "bf16" in seconds)
        return asked

    return set_speeds


def test_the_fastest_that_fits_is_taken(measured, monkeypatch):
    measured(fp32=(0.05, 0.01, 0.01), int8=(0.02, 0.002, 0.01), int4=(0.02, 0.001, 0.01))
    for gigabytes, wanted in ((64, "int4"), (7.5, "int4"), (None, "int4")):
        free = None if gigabytes is None else int(gigabytes * 1e9)
        monkeypatch.setattr(precision_choice, "available_memory", lambda free=free: free)
        assert choose_precision("auto", LLAVA, CPU).precision == wanted
    measured(fp32=(0.05, 0.01, 0.01), int8=(0.01, 0.001, 0.01), int4=(0.05, 0.002, 0.01))
    for gigabytes, wanted in ((64, "int8"), (9, "int4")):
        monkeypatch.setattr(precision_choice, "available_memory", lambda g=gigabytes: int(g * 1e9))
        assert choose_precision("auto", LLAVA, CPU, fresh=True).precision == wanted


def test_of_those_that_are_about_as_fast_the_finest_is_taken(measured, monkeypatch):
    monkeypatch.setattr(precision_choice, "available_memory", lambda: None)
    measured(fp32=(0.0104, 0.001, 0.01), int8=(0.01, 0.001, 0.01), int4=(0.0101, 0.001, 0.01))
    assert choose_precision("auto", LLAVA, CPU).precision == "fp32"


def test_where_nothing_fits_the_smallest_is_taken_with_a_sentence(measured, monkeypatch):
    measured(fp32=(0.05, 0.01, 0.01), int8=(0.02, 0.002, 0.01), int4=(0.02, 0.001, 0.01))
    monkeypatch.setattr(precision_choice, "available_memory", lambda: int(2e9))
    choice = choose_precision("auto", LLAVA, CPU)
    assert choice.precision == "int4"
    assert choice.fitting == ()
    needed = precision_choice.cpu_bytes(LLAVA, "int4") / 1e9
    assert f"needs about {needed:.1f} GB of memory in int4" in choice.advice
    assert "2.0 GB are free" in choice.advice


def test_another_precision_is_obeyed_with_one_warning(measured, monkeypatch):
    monkeypatch.setattr(precision_choice, "available_memory", lambda: None)
    asked = measured(
        fp32=(0.05, 0.01, 0.01), int8=(0.02, 0.002, 0.01), int4=(0.02, 0.001, 0.01), fp16=(1, 1, 1)
    )
    slow = choose_precision("fp16", LLAVA, CPU)
    assert slow.precision == "fp16"
    assert "int4 is about" in slow.advice
    assert "times as fast as fp16" in slow.advice
    assert choose_precision("int8", LLAVA, CPU).advice == ""
    assert [set(some) for some in asked] == [{"fp32", "int8", "int4", "fp16"}]  # and never again


def test_bfloat16_is_a_candidate_where_the_cpu_has_it(measured):
    measured(fp32=(1, 1, 1), bf16=(1, 1, 1), int8=(1, 1, 1), int4=(1, 1, 1))
    assert cpu_candidates(LLAVA) == ("fp32", "bf16", "int8", "int4")


def test_without_bitsandbytes_no_precision_is_quantized(monkeypatch):
    monkeypatch.setattr(precision_choice.importlib.util, "find_spec", lambda _: None)
    assert set(cpu_candidates(LLAVA)) <= {"fp32", "bf16"}


def test_layers_of_odd_widths_are_not_candidates_for_int4():
    import dataclasses

    odd = dataclasses.replace(LLAVA, decoder=dataclasses.replace(LLAVA.decoder, intermediate=1000))
    assert "int4" not in cpu_candidates(odd)
    assert "int8" in cpu_candidates(odd)


def test_on_cuda_it_is_int4():
    assert choose_precision("auto", LLAVA, torch.device("cuda", 0)).precision == "int4"
    assert choose_precision("fp16", LLAVA, torch.device("cuda", 0)).precision == "fp16"


def test_speeds_are_measured_and_kept():
    precisions = cpu_candidates(TINY)
    first = layer_speeds(TINY, precisions)
    assert all(min(s.read, s.token, s.vision) > 0 for s in first.values())
    assert layer_speeds(TINY, precisions) == first
    assert layer_speeds(TINY, precisions, fresh=True) != first
    assert json.loads(cache_file().read_text())
    assert set(layer_speeds(TINY, ("fp32",), stock=True)) == {"fp32"}


def test_the_tower_is_timed_by_its_patches_and_the_reading_by_its_tokens():
    """Qwen3-VL-2B: 1200 patches of 640 x 480 pixels become 300 tokens, of which 16 are read."""
    qwen = planned_sizes("qwen3-vl-2b")
    speed, blind = LayerSpeed(0.02, 0.002, 0.01), LayerSpeed(0.02, 0.002, 0.0)
    sizes = (480, 640), (720, 1280)
    vga, hd = (speed.first_token(qwen, 66, size) for size in sizes)
    reading = {blind.first_token(qwen, 66, size) for size in sizes}
    assert len(reading) == 1
    # In timed products of 128 rows: three a layer, and attention to 1200 others; then the mergers
    # of DeepStack, which are eight products for each token, and the embedding of the patches.
    products = 24 * (3 + 1200 / 2048) * 1200 + 3 * 6 * 300 + 0.375 * 1200
    assert vga - reading.pop() == pytest.approx(0.01 * products / 128)
    assert hd > 2 * vga


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": {"fp32": {"read": 1}}}', '{"a": 3}'])
def test_a_broken_cache_is_measured_again(content):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content)
    assert layer_speeds(TINY, ("fp32",))["fp32"].read > 0


def test_a_folder_that_cannot_be_written_is_no_trouble(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert layer_speeds(TINY, ("fp32",))["fp32"].read > 0


def test_the_engine_says_what_was_chosen(monkeypatch):
    engine = SceneEngine.load("random:tiny", device="cpu")
    assert engine.info.precision in cpu_candidates(TINY)
    monkeypatch.setattr(precision_choice, "available_memory", lambda: 1)
    assert "close other programs" in SceneEngine.load("random:tiny", device="cpu").info.advice


def test_an_unknown_precision_names_the_known_ones():
    with pytest.raises(UserError, match="'int3': take one of auto, fp32"):
        SceneEngine.load("random:tiny", precision="int3")


def test_what_is_not_quantized_is_counted_as_it_is_kept():
    if cpu.computes_bfloat16():
        assert cpu_bytes(LLAVA, "int8") == pytest.approx(9.2e9, rel=0.05)
    else:  # the embedding and the cache in float32
        assert 9.2e9 < cpu_bytes(LLAVA, "int8") < 10.9e9
