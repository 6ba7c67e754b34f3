# SPDX-License-Identifier: Apache-2.0
"""The package's own kernels: each that this CPU can run, against plain sums in float64."""

import platform

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_vlm_ros.cpu import AVX2, instructions
from svd_vlm_ros.models.weights import kernels

NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
        *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
    ]
)
KINDS = ("int8", "nf4")
LEVELS = 63  # of rows, and of NF4's numbers, in the kernel that has the fewest


def random_layer(kind, inputs, outputs, seed=0):
    """Weights as the kernels read them, and the same in float64."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "int8":
        levels = torch.randint(-127, 128, (outputs, inputs), generator=generator).to(torch.int8)
        scales = torch.rand(outputs, generator=generator) + 0.5
        return kernels.lay_out_int8(levels, scales), levels.double() * scales[:, None].double()
    codes = torch.randint(0, 16, (outputs, inputs), generator=generator).to(torch.uint8)
    scales = (torch.rand(outputs, inputs // 64, generator=generator) + 0.5).half()
    exact = NF4.double()[codes.long()] * scales.double().repeat_interleave(64, dim=1)
    return kernels.lay_out_nf4(codes, scales), exact


def test_this_cpu_has_a_kernel():
    """If the package was built for x86 or ARM: an int8 model falls back to slow ones else."""
    wanted = instructions() >= AVX2 or "asimddp" in instructions()
    assert bool(kernels.kernels()) == wanted or platform.machine() not in ("x86_64", "aarch64")


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 150),
    blocks=st.integers(1, 5),
    ragged=st.integers(0, 63),
    outputs=st.integers(1, 50),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_products_are_those_of_the_weights(kind, rows, blocks, ragged, outputs, bias, seed):
    inputs = blocks * 64 - (ragged if kind == "int8" else 0)
    weights, exact = random_layer(kind, inputs, outputs, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(rows, inputs, generator=generator)
    shift = torch.randn(outputs, generator=generator) if bias else None
    wanted = x.double() @ exact.t() + (0 if shift is None else shift.double())
    # As far as rounding may lead: half a step of each block of a row, and of each number of NF4.
    padded = torch.nn.functional.pad(x.double(), (0, -inputs % 64)).view(rows, -1, 64)
    half = (padded.abs().amax(2, keepdim=True) / LEVELS / 2).expand_as(padded)
    half = half.reshape(rows, -1)[:, :inputs]
    steps = torch.full_like(exact, 0.5 / LEVELS) if kind == "nf4" else torch.zeros_like(exact)
    steps *= 1.5  # the largest scale
    bound = half @ exact.abs().t() + (x.double().abs() + half) @ steps.t()
    for kernel in kernels.kernels():
        found = kernels.multiply(x, weights, shift, kernel=kernel)
        assert found.dtype == torch.float32
        assert ((found - wanted).abs() <= 1.001 * bound + 1e-4).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_the_range_do_not_overflow(kind):
    """Sums of two products in 16 bits are the narrowest place, if all are of one sign."""
    ones = torch.ones(4, 256)
    if kind == "int8":
        weights = kernels.lay_out_int8(torch.full((16, 256), 127, dtype=torch.int8), torch.ones(16))
        wanted = 127 * 256
    else:
        codes = torch.full((16, 256), 15, dtype=torch.uint8)
        weights, wanted = kernels.lay_out_nf4(codes, torch.ones(16, 4)), 256
    for kernel in kernels.kernels():
        for sign in (1, -1):
            found = kernels.multiply(sign * ones, weights, kernel=kernel)
            assert torch.allclose(found, torch.full_like(found, float(sign * wanted)), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_neighbours_nor_on_threads(kind):
    weights, _ = random_layer(kind, 256, 48)
    x = torch.randn(131, 256, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    try:
        for kernel in kernels.kernels():
            whole = kernels.multiply(x, weights, kernel=kernel)
            torch.set_num_threads(2 if threads == 1 else 1)
            assert torch.equal(kernels.multiply(x, weights, kernel=kernel), whole)
            for row in (0, 1, 2, 64, 130):
                alone = kernels.multiply(x[row : row + 1], weights, kernel=kernel)
                assert torch.equal(alone[0], whole[row])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_spoils_its_row_alone(kind, bad):
    weights, _ = random_layer(kind, 128, 16)
    x = torch.ones(3, 128)
    x[1, 70] = bad
    for kernel in kernels.kernels():
        found = kernels.multiply(x, weights, kernel=kernel)
        assert found[1].isnan().all()
        assert found[[0, 2]].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_very_large_and_very_small_numbers(kind):
    weights, exact = random_layer(kind, 128, 16)
    x = torch.randn(1, 128, generator=torch.Generator().manual_seed(2))
    for kernel in kernels.kernels():
        for factor in (1e-20, 1e20):
            found = kernels.multiply(x * factor, weights, kernel=kernel).double() / factor
            assert (found - x.double() @ exact.t()).norm() <= 0.05 * found.norm()
        assert not kernels.multiply(torch.zeros(1, 128), weights, kernel=kernel).any()
        assert kernels.multiply(x * 1e-38, weights, kernel=kernel).isfinite().all()


@pytest.mark.parametrize("shape", [(16, 64), (17, 128), (1, 64), (50, 192)])
def test_weights_come_back(shape):
    generator = torch.Generator().manual_seed(3)
    levels = torch.randint(-128, 128, shape, generator=generator).to(torch.int8)
    assert torch.equal(
        kernels.int8_levels(kernels.lay_out_int8(levels, torch.ones(shape[0]))), levels
    )
    codes = torch.randint(0, 16, shape, generator=generator).to(torch.uint8)
    scales = torch.rand(shape[0], shape[1] // 64, generator=generator).half()
    found, kept = kernels.nf4_codes(kernels.lay_out_nf4(codes, scales))
    assert torch.equal(found, codes)
    assert torch.equal(kept, scales)


def test_rows_of_another_width_are_refused():
    weights, _ = random_layer("int8", 128, 16)
    with pytest.raises(ValueError, match="128 inputs, the rows 64"):
        kernels.multiply(torch.ones(1, 64), weights)
