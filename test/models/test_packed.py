# SPDX-License-Identifier: Apache-2.0
"""Layers laid out for the CPU: the same products, the same weights, the way back.

What is laid out depends on the CPU's class, so each test says for all classes what it expects, and
runs in the one at hand; `ATEN_CPU_CAPABILITY=avx2` makes an AVX-512 CPU one without.
"""

import gc
import weakref

import pytest
import torch
from torch import nn

from svd_vlm_ros.cpu import AVX2, computes_bfloat16, has_avx512, instructions
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.models.llava.loading import COMPONENTS, load_llava
from svd_vlm_ros.models.weights import kernels, packed, packed_layers, precision

PROBES = (
    *(packed.packs_bfloat16, packed.packs_float32, packed.packs_half),
    *(packed.packs_int8, packed.multiplies_bytes),
)
VNNI = has_avx512() and "avx512_vnni" in instructions()
X86 = instructions() >= AVX2
INT8 = packed_layers.PackedInt8 if VNNI else packed_layers.BlockInt8
HALF = packed_layers.PackedHalf if X86 else nn.Linear
BFLOAT16 = (packed_layers.PackedLinear if has_avx512() else nn.Linear,) * 3
# precision: what layers of the decoder, the tower, and the output head are on this CPU
EXPECTED = (
    {
        "fp32": (nn.Linear,) * 3,
        "bf16": BFLOAT16,
        "int8": (INT8, *BFLOAT16[1:]),
    }
    if computes_bfloat16()
    else {
        "fp32": (packed_layers.PackedLinear if X86 else nn.Linear, nn.Linear, nn.Linear),
        "bf16": BFLOAT16,
        "int8": (INT8, nn.Linear if has_avx512() else HALF, HALF),
        "int4": (packed_layers.BlockNf4, nn.Linear if has_avx512() else HALF, HALF),
    }
)


@pytest.fixture(scope="module", autouse=True)
def _small_layers_count_as_large():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "LARGE", 1000)
        yield


@pytest.fixture(scope="module", params=EXPECTED)
def pair(request):
    """The same model twice, as it was loaded and laid out; and the precision."""
    plain, laid_out = (
        load_llava("random:tiny", precision=request.param, device="cpu").model for _ in range(2)
    )
    packed.pack(laid_out)
    return plain, laid_out, request.param


def count(model, kind=nn.Linear):
    return sum(isinstance(module, kind) for module in model.modules())


def layers(model):
    part = model.model
    return [
        part.language_model.layers[0].mlp.down_proj,
        part.language_model.layers[1].self_attn.k_proj,
        part.vision_tower.encoder.layers[0].mlp.fc1,  # has a bias
        model.lm_head,
    ]


def test_each_layer_is_what_this_class_of_cpu_multiplies_fastest(pair):
    _, laid_out, chosen = pair
    inside, tower, head = EXPECTED[chosen]
    assert [type(layer) for layer in layers(laid_out)] == [inside, inside, tower, head]


@torch.inference_mode()
def test_products_are_the_same(pair):
    plain, laid_out, chosen = pair
    dtype = precision.compute_dtype(chosen, torch.device("cpu"))
    # Of the largest: rounding of float32 sums, of weights to float16, of rows to int8.
    tolerance = {
        nn.Linear: 0.0,
        packed_layers.PackedLinear: 1e-6 if chosen == "fp32" else 0.0,
        packed_layers.PackedHalf: 1e-3,
        packed_layers.PackedInt8: 2**-7,
        packed_layers.BlockInt8: 2**-5,
        packed_layers.BlockNf4: 2**-5,
    }
    generator = torch.Generator().manual_seed(0)
    for theirs, ours in zip(layers(plain), layers(laid_out), strict=True):
        for shape in ((1,), (7,), (2, 3), (70,)):
            rows = torch.randn(*shape, ours.in_features, generator=generator).to(dtype)
            wanted, found = theirs(rows), ours(rows)
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            largest = (found - wanted).abs().max() / wanted.abs().max()
            assert largest <= tolerance[type(ours)], type(ours)
        if ours.bias is None:
            assert not ours(torch.zeros(1, ours.in_features, dtype=dtype)).any()


def test_the_layers_that_were_loaded_come_back(pair):
    plain, laid_out, chosen = pair
    dtype = precision.compute_dtype(chosen, torch.device("cpu"))
    assert precision.quantized_layers(laid_out, COMPONENTS) == precision.quantized_layers(
        plain, COMPONENTS
    )
    before = [type(layer) for layer in layers(laid_out)]
    inside, tower, head = EXPECTED[chosen]
    assert before == [inside, inside, tower, head]  # else there is nothing to give back
    rows = torch.randn(3, 256).to(dtype)
    with packed.unpacked(laid_out), torch.inference_mode():
        for theirs, ours, kind in zip(layers(plain), layers(laid_out), before, strict=True):
            assert type(ours) is type(theirs)
            weight = theirs.weight
            if kind is packed_layers.PackedHalf:
                weight = weight.half().float()
            assert torch.equal(ours.weight, weight)
        theirs, ours = layers(plain)[0], layers(laid_out)[0]
        off = (ours(rows) - theirs(rows)).abs().max() / theirs(rows).abs().max()
        assert off <= (2e-3 if chosen == "int4" else 0)  # its scales are kept in float16
        assert precision.quantized_layers(laid_out, COMPONENTS) == precision.quantized_layers(
            plain, COMPONENTS
        )
    assert [type(layer) for layer in layers(laid_out)] == before


def test_weights_are_counted_as_they_are_held(pair):
    plain, laid_out, chosen = pair
    wanted = precision.weight_bytes(plain)
    if HALF in EXPECTED[chosen]:
        wanted -= 2 * sum(
            layer.in_features * layer.out_features
            for theirs, layer in zip(plain.modules(), laid_out.modules(), strict=True)
            if type(theirs) is nn.Linear and type(layer) is HALF
        )
    assert precision.weight_bytes(laid_out) == pytest.approx(wanted, rel=0.02)


def test_only_one_layer_is_held_twice():
    """What a layer was before is gone when the next one is laid out."""
    plain = load_llava("random:tiny", precision="int8", device="cpu").model
    first = weakref.ref(plain.model.language_model.layers[0].mlp.down_proj.weight)
    assert packed.pack(plain)
    gc.collect()
    assert first() is None


def test_small_layers_and_16_bits_stay_as_they_are(monkeypatch):
    """If a call costs more than the product; and what somebody asks for in so many words."""
    monkeypatch.setattr(packed, "LARGE", 1 << 20)
    for chosen in ("fp32", "fp16", *([] if has_avx512() else ["bf16"])):
        model = load_llava("random:tiny", precision=chosen, device="cpu").model
        assert packed.pack(model) == 0


@pytest.fixture
def probes_anew():
    for probe in PROBES:
        probe.cache_clear()
    yield
    for probe in PROBES:
        probe.cache_clear()


def test_where_an_operator_is_missing_nothing_is_laid_out(monkeypatch, probes_anew):
    """Another torch, another CPU, kernels not built: the engine runs on what was loaded."""

    def missing(*_):
        raise RuntimeError("no such operator")

    for name in ("multiply", "multiply_int8", "multiply_half"):
        monkeypatch.setattr(packed_layers, name, missing)
    monkeypatch.setattr(kernels, "kernels", lambda: ())
    for chosen in ("fp32", "bf16", "int8", "int4"):
        engine = SceneEngine.load("random:tiny", precision=chosen, device="cpu")
        assert not count(engine.loaded.model, packed.Packed)
        scene = engine.see(torch.zeros(32, 32, 3, dtype=torch.uint8).numpy())
        assert engine.ask(scene, "What is there?", max_new_tokens=2).answer_tokens <= 2


@pytest.mark.skipif(not kernels.kernels(), reason="needs a CPU for which kernels are built")
@pytest.mark.parametrize("wrong", ["int8", "nf4"])
def test_a_kernel_that_is_wrong_is_not_used(monkeypatch, probes_anew, wrong):
    """Each of the two products is enough to refuse both; right ones are used."""
    assert packed.multiplies_bytes()
    packed.multiplies_bytes.cache_clear()
    multiply = kernels.multiply

    def off_by_one(rows, weights, *some, **more):
        return multiply(rows, weights, *some, **more) + (weights.kind == wrong)

    monkeypatch.setattr(kernels, "multiply", off_by_one)
    assert not packed.multiplies_bytes()


@pytest.mark.parametrize("chosen", EXPECTED)
def test_the_engine_runs_on_laid_out_layers(chosen):
    engine = SceneEngine.load("random:tiny", precision=chosen, device="cpu")
    assert {type(layer) for layer in layers(engine.loaded.model)[:2]} == {EXPECTED[chosen][0]}
