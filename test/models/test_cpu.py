# SPDX-License-Identifier: Apache-2.0
"""The CPU's class and the free memory, read from what Linux writes."""

import pytest
import torch

from svd_vlm_ros import cpu

ZEN3 = "avx avx2 fma f16c"
N100 = f"{ZEN3} avx_vnni"
SKYLAKE = f"{ZEN3} avx512f avx512bw avx512vl avx512dq"
TIGER_LAKE = f"{SKYLAKE} avx512_vnni"
GENOA = f"{TIGER_LAKE} avx512_bf16"
SAPPHIRE = f"{GENOA} amx_tile amx_bf16"


@pytest.fixture
def features(monkeypatch):
    def has(names):
        monkeypatch.setattr(cpu, "_features", lambda: frozenset(names.split()))

    return has


@pytest.mark.parametrize(
    ("names", "words", "bfloat16"),
    [
        (ZEN3, "AVX2, no bf16", False),
        (N100, "AVX2 with AVX-VNNI, no bf16", False),
        (SKYLAKE, "AVX-512, no bf16", False),
        (TIGER_LAKE, "AVX-512 with VNNI, no bf16", False),
        (GENOA, "AVX-512 with VNNI, bf16", True),
        (SAPPHIRE, "AVX-512 with VNNI and AMX, bf16", True),
        ("asimd asimdhp", "NEON, no bf16", False),
        ("asimd asimddp", "NEON with dot product, no bf16", False),
        ("asimd asimddp bf16 i8mm", "NEON with dot product, bf16", True),
    ],
)
def test_classes(features, monkeypatch, names, words, bfloat16):
    monkeypatch.delenv(cpu.RESTRICTION, raising=False)
    features(names)
    assert cpu.cpu_class() == words
    assert cpu.computes_bfloat16() == bfloat16


def test_a_restriction_of_torch_holds_here_as_well(features, monkeypatch):
    features(SAPPHIRE + " avx_vnni")
    monkeypatch.setenv(cpu.RESTRICTION, "avx2")
    assert cpu.cpu_class() == "AVX2, no bf16"
    monkeypatch.setenv(cpu.RESTRICTION, "default")
    assert cpu.cpu_class().endswith("without AVX2")


def test_the_class_is_that_which_torch_sees():
    capability = torch.backends.cpu.get_cpu_capability()
    assert (capability == "AVX512") == cpu.has_avx512()
    assert (capability in ("AVX2", "AVX512")) == (cpu.instructions() >= cpu.AVX2)


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    meminfo, limit, used = (tmp_path / name for name in ("meminfo", "max", "current"))
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    monkeypatch.setattr(cpu, "MEMINFO", meminfo)
    monkeypatch.setattr(cpu, "CGROUPS", ((str(limit), str(used)),))
    assert cpu.available_memory() == 4000 * 1024
    used.write_text("1000000\n")
    for written, wanted in (("max\n", 4000 * 1024), ("3000000\n", 2_000_000), ("500\n", 0)):
        limit.write_text(written)
        assert cpu.available_memory() == wanted
    monkeypatch.setattr(cpu, "MEMINFO", tmp_path / "absent")
    limit.unlink()
    assert cpu.available_memory() is None
