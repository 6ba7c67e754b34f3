# SPDX-License-Identifier: Apache-2.0
"""Layers laid out for the CPU: the same products, the same weights, the way back."""

import pytest
import torch
from torch import nn

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.llava import packed, precision
from svd_vlm_ros.llava.loading import load_llava


@pytest.fixture(params=["bf16", "int8"])
def pair(request):
    """The same model twice, as it was loaded and laid out."""
    works = {"bf16": packed.packs_bfloat16, "int8": packed.packs_int8}
    plain, laid_out = (load_llava("random:tiny", precision=request.param) for _ in range(2))
    if not works[request.param]():
        pytest.skip("this CPU gains nothing")
    assert packed.pack(laid_out.model) == count(plain.model)
    return plain.model.cpu(), laid_out.model.cpu()


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


@torch.inference_mode()
def test_products_are_the_same(pair):
    generator = torch.Generator().manual_seed(0)
    for theirs, ours in zip(*map(layers, pair), strict=True):
        assert isinstance(ours, packed.Packed)
        for shape in ((1,), (7,), (2, 3), (70,)):
            rows = torch.randn(*shape, ours.in_features, generator=generator).bfloat16()
            wanted, found = theirs(rows), ours(rows)
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            if isinstance(ours, packed.PackedLinear):
                assert torch.equal(found, wanted)
            else:  # bitsandbytes rounds to float16 on the way, the result of both to bfloat16
                assert (found - wanted).abs().max() <= 2**-7 * wanted.abs().max()
        if not isinstance(ours, packed.PackedLinear):
            assert not ours(torch.zeros(1, ours.in_features).bfloat16()).any()


def test_the_layers_that_were_loaded_come_back(pair):
    plain, laid_out = pair
    assert precision.weight_bytes(laid_out) == pytest.approx(
        precision.weight_bytes(plain), rel=0.01
    )
    assert precision.quantized_layers(laid_out) == precision.quantized_layers(plain)
    rows = torch.randn(3, 256).bfloat16()
    with packed.unpacked(laid_out), torch.inference_mode():
        for theirs, ours in zip(*map(layers, pair), strict=True):
            assert type(ours) is type(theirs)
            assert torch.equal(ours.weight, theirs.weight)
        theirs, ours = layers(plain)[0], layers(laid_out)[0]
        assert torch.equal(ours(rows), theirs(rows))
        assert precision.quantized_layers(laid_out) == precision.quantized_layers(plain)
    assert all(isinstance(layer, packed.Packed) for layer in layers(laid_out))


def test_only_one_layer_is_held_twice(pair):
    """What a layer was before is gone when the next one is laid out."""
    import gc
    import weakref

    plain, _ = pair
    first = weakref.ref(plain.model.language_model.layers[0].mlp.down_proj.weight)
    packed.pack(plain)
    gc.collect()
    assert first() is None


@pytest.mark.parametrize("chosen", ["fp32", "fp16"])
def test_other_precisions_stay_as_they_are(chosen):
    model = load_llava("random:tiny", precision=chosen, device="cpu").model
    assert packed.pack(model) == 0


def test_where_an_operator_is_missing_nothing_is_laid_out(monkeypatch):
    """Another torch, another CPU: the engine runs on the layers that were loaded."""
    for probe in (packed.packs_bfloat16, packed.packs_int8):
        probe.cache_clear()

    def missing(*_):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(packed, "_multiply", missing)
    monkeypatch.setattr(packed, "_multiply_int8", missing)
    try:
        for chosen in ("bf16", "int8"):
            engine = SceneEngine.load("random:tiny", precision=chosen, device="cpu")
            kinds = {type(module) for module in engine._loaded.model.modules()}
            assert not any(issubclass(kind, packed.Packed) for kind in kinds)
    finally:
        for probe in (packed.packs_bfloat16, packed.packs_int8):
            probe.cache_clear()


@pytest.mark.parametrize("chosen", ["bf16", "int8"])
def test_the_engine_runs_on_laid_out_layers(chosen):
    engine = SceneEngine.load("random:tiny", precision=chosen, device="cpu")
    model = engine._loaded.model
    works = packed.packs_bfloat16() and packed.packs_int8()
    assert count(model, packed.Packed) == count(model) or not works
