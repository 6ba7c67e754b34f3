# SPDX-License-Identifier: Apache-2.0
"""Precisions: what is quantized, what onnxruntime makes of it, how far it is from float32."""

import ml_dtypes
import numpy as np
import onnx
import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export import checks, export_onnx
from svd_vlm_ros.export.decoder import LAYER_LINEARS
from svd_vlm_ros.export.operators import PLAIN
from svd_vlm_ros.export.quantize import BLOCK, pack, quantize
from svd_vlm_ros.export.sessions import Sessions

RNG = np.random.default_rng(0)
ALL = ["fp32", "fp16", "int8", "int4"]
LAYERS = 4  # of scout


def logits(graphs):
    rng = np.random.default_rng(1)
    embeds = rng.normal(size=(20, graphs.manifest.sizes["hidden"])).astype(np.float32) * 0.5
    return graphs.read(embeds, np.arange(20), graphs.empty(), list(range(20)))[0]


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_numbers_fit_their_bits_and_come_near_the_weights(bits):
    weight = RNG.normal(size=(3 * BLOCK, 40)).astype(np.float32)
    weight[:BLOCK, 7] = 0.0  # a block of nothing
    numbers, scales = quantize(weight, bits)
    assert numbers.min() >= -(1 << (bits - 1))
    assert numbers.max() < 1 << (bits - 1)
    assert (scales > 0).all()  # as TensorRT wants it
    error = np.abs(numbers * np.repeat(scales, BLOCK, axis=0) - weight)
    inside = np.abs(numbers) < (1 << (bits - 1)) - 1
    assert (error <= np.repeat(scales, BLOCK, axis=0) * 0.5001)[inside].all()
    assert error.mean() < {4: 0.08, 8: 0.006}[bits]


def test_of_several_scales_the_best_is_taken():
    weight = RNG.normal(size=(BLOCK, 500)).astype(np.float32)
    numbers, scales = quantize(weight, 4)
    plain = np.abs(weight).max(axis=0) / 7
    rounded = np.rint(weight / plain) * plain
    assert np.square(numbers * scales - weight).sum() < 0.97 * np.square(rounded - weight).sum()


def test_numbers_of_4_bits_are_packed_as_onnx_reads_them():
    numbers = RNG.integers(-8, 8, (6, 10)).astype(np.int8)
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.INT4, dims=numbers.shape)
    tensor.raw_data = pack(numbers).tobytes()
    assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype(ml_dtypes.int4), numbers)


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="multiples of 32"):
        quantize(np.zeros((40, 3), np.float32), 4)


@pytest.mark.parametrize("precision", ALL)
def test_graphs_are_plain_and_exactly_the_layers_are_quantized(exported, precision):
    folder = exported("scout", precision)
    for name in ("vision.onnx", "projector.onnx", "decoder.onnx"):
        assert set(checks.operators(folder / name)) <= set(PLAIN)
        model = onnx.load(folder / name, load_external_data=False)
        assert [each.domain for each in model.opset_import] == [""]
        assert model.opset_import[0].version == (21 if precision.startswith("int") else 20)
    wanted = LAYERS * len(LAYER_LINEARS) if precision.startswith("int") else 0
    assert checks.quantized_products(folder / "decoder.onnx") == wanted
    assert checks.quantized_products(folder / "vision.onnx") == 0


def test_a_graph_in_which_something_stayed_unquantized_is_refused(exported):
    folder = exported("scout", "int4")
    with pytest.raises(RuntimeError, match="28 products with quantized weights, not 29"):
        checks.check_graph(folder / "decoder.onnx", 29)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_onnxruntime_multiplies_by_the_blocks_themselves(exported, precision, tmp_path):
    """Else it would make floats of all weights for every token."""
    graphs = Sessions(exported("scout", precision))
    graphs.open("decoder.onnx", tmp_path / "optimized.onnx")
    made = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    products = [node for node in made if node.op_type == "MatMulNBits"]
    fused = precision == "int4" or _multiplies_by_8_bits()
    assert len(products) == (LAYERS * len(LAYER_LINEARS) if fused else 0)
    for node in products:
        attributes = {each.name: each.i for each in node.attribute}
        assert attributes["bits"] == int(precision[-1])
        assert attributes["accuracy_level"] == 4


def _multiplies_by_8_bits():
    """onnxruntime 1.23, the last for Python 3.10, does so for 4 bits only."""
    import onnxruntime

    return tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 25)


@pytest.mark.parametrize(("precision", "most"), [("fp16", 0.01), ("int8", 0.02), ("int4", 0.2)])
def test_logits_stay_near_those_of_float32(exported, precision, most):
    wanted = logits(Sessions(exported("scout", "fp32")))
    found = logits(Sessions(exported("scout", precision)))
    assert 0 < np.abs(found - wanted).mean() / wanted.std() < most


def test_only_fp32_and_quantized_exports_keep_activations_of_32_bits(exported):
    for precision in ALL:
        manifest = Sessions(exported("scout", precision)).manifest
        wanted = "float16" if precision == "fp16" else "float32"
        assert manifest.activations == wanted
        inputs = manifest.tensors["decoder.onnx"]["inputs"]
        assert inputs["past_key.0"][0] == wanted
        assert inputs["inputs_embeds"][0] == "float32"
        kept = np.float32 if precision == "fp32" else np.float16
        assert manifest.embeddings().dtype == kept


def test_int4_with_activations_of_16_bits(tmp_path, exported):
    out = export_onnx("scout", tmp_path / "m", precision="int4", activations="float16")
    graphs = Sessions(out)
    assert graphs.manifest.tensors["decoder.onnx"]["inputs"]["past_value.3"][0] == "float16"
    assert checks.quantized_products(out / "decoder.onnx") == LAYERS * len(LAYER_LINEARS)
    near = logits(Sessions(exported("scout", "int4")))
    assert np.abs(logits(graphs) - near).mean() / near.std() < 0.05


def test_what_can_t_be_is_refused_before_anything_is_written(tmp_path):
    for how, match in (
        ({"precision": "int3"}, "no export in 'int3'"),
        ({"precision": "bf16"}, "no export in 'bf16'"),
        ({"precision": "fp32", "activations": "float16"}, "activations are float32"),
        ({"precision": "int4", "activations": "int8"}, "no activations in 'int8'"),
    ):
        with pytest.raises(UserError, match=match):
            export_onnx("scout", tmp_path / "m", **how)
    assert not list(tmp_path.iterdir())
