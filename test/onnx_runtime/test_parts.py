# SPDX-License-Identifier: Apache-2.0
"""The parts of the runtime onnx beside those of torch: prompts, pixel values, features, logits."""

import numpy as np
import pytest

from svd_vlm_ros.errors import UserError

TEXTS = (
    "is the path clear?",
    "  What colour is the <image> car, </s> then?  ",
    "Où est la voiture 车 ? 🚗",
    "two  blanks\nand a line",
    "x" * 300,
)


@pytest.mark.parametrize("system", [None, "answer briefly.", "<s>one</s> two"])
def test_prompts_have_the_ids_of_torch(onnx, stock, system):
    mine, theirs = onnx.loaded.prompt(system), stock.loaded.prompt(system)
    assert mine.before == theirs.before
    for text in TEXTS:
        assert mine.after(text) == theirs.after(text)
        assert mine.words(text) == theirs.words(text)
        assert mine.answer(text, "yes it is") == theirs.answer(text, "yes it is")
        assert mine.text(text) == theirs.text(text)
    ends = stock.loaded.end_token_ids
    assert onnx.loaded.end_token_ids == ends
    assert mine.end(ends) == theirs.end(ends)


def test_ids_are_decoded_as_torch_decodes_them(onnx, stock):
    mine, theirs = onnx.loaded.prompt(None), stock.loaded.prompt(None)
    generator = np.random.default_rng(0)
    for length in (1, 3, 40):
        for _ in range(20):
            ids = generator.integers(0, onnx.loaded.manifest.sizes["vocabulary"], length).tolist()
            assert mine.decode(ids) == theirs.decode(ids)
    assert mine.decode([]) == theirs.decode([]) == ""


@pytest.mark.parametrize("text", ["", "  ", "a\x00b", "x" * 100_000])
def test_texts_are_refused_with_the_same_sentence(onnx, stock, text):
    sentences = []
    for engine in (onnx, stock):
        scene = engine.see(np.zeros((20, 30, 3), np.uint8), visual_tokens=4)
        with pytest.raises(UserError) as refused:
            engine.ask(scene, text)
        sentences.append(str(refused.value))
    assert sentences[0] == sentences[1]


@pytest.mark.parametrize("aspect", ["pad", "crop"])
@pytest.mark.parametrize("size", [(480, 640), (640, 480), (336, 336), (37, 20), (100, 700)])
def test_pixel_values_are_those_of_torch(onnx, stock, size, aspect):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    mine, theirs = (engine.loaded.images(image, aspect) for engine in (onnx, stock))
    assert np.array_equal(mine.pixels, theirs.pixels.numpy())
    assert mine.pixels.dtype == np.float32
    assert mine.framing == theirs.framing


def test_features_are_those_of_torch(onnx, stock):
    image = np.random.default_rng(2).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    needs = frozenset({"class_attention", "keys", "projected"})
    mine, theirs = onnx.features(image, needs), stock.features(image, needs)
    assert np.array_equal(mine.valid, theirs.valid.numpy())
    assert mine.grid == theirs.grid
    for name in ("patches", "class_attention", "class_token", "keys", "class_key", "projected"):
        wanted = getattr(theirs, name).numpy()
        found = getattr(mine, name)
        assert found.shape == wanted.shape, name
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max(), name
    assert onnx.features(image).class_attention is None  # nobody asked


def test_what_the_engine_says_of_itself(onnx, stock, exported):
    mine, theirs = onnx.info, stock.info
    assert (mine.runtime, theirs.runtime) == ("onnx", "torch")
    assert (mine.precision, mine.dtype, mine.device) == ("fp32", "float32", "cpu")
    for name in ("grid", "image_size", "context", "visual_tokens_total", "layers", "shareable"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert set(mine.selectors) < set(theirs.selectors)
    graphs = [path for path in exported.iterdir() if path.suffix in (".onnx", ".data", ".npy")]
    assert mine.weight_bytes == sum(path.stat().st_size for path in graphs)
    assert onnx.peak_memory_bytes() == 0
