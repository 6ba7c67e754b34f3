# SPDX-License-Identifier: Apache-2.0
"""What the Qwen families share: attention without a class token, bounds of pixels, odd shapes."""

import copy
import importlib

import numpy as np
import pytest
import torch
from family_reference import TINY, images, references

from svd_vlm_ros.bench.memory import in_use, measured_peak
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models import attention
from svd_vlm_ros.models.interface import ModelOptions
from svd_vlm_ros.models.registry import family_of
from svd_vlm_ros.selection import Budget, VisualFeatures, make_selector

QWENS = ("qwen2_5_vl", "qwen3_vl")
FULL_SIZE = {"qwen2_5_vl": "random:qwen2.5-vl-3b", "qwen3_vl": "random:qwen3-vl-2b"}
SIDES = {"qwen2_5_vl": 28, "qwen3_vl": 32}  # of a four
BY_ATTENTION = ("visionzip", "hired", "scope", "vispruner")
LOOKS = frozenset({"class_attention", "keys"})
IMAGES = images()
CLOSE = {"atol": 2e-6, "rtol": 2e-5}


def load(model_type, **options):
    options = {"precision": "fp32", "device": "cpu", "selector": "none", **options}
    return SceneEngine.load(TINY + model_type, **options)


def black(width, height):
    return np.zeros((height, width, 3), np.uint8)


@pytest.fixture(scope="module", params=QWENS)
def model(request):
    """(engine, reference) of a family."""
    engine = load(request.param)
    return engine, references()[request.param](engine.loaded)


@pytest.fixture
def eager(model, monkeypatch):
    """A function: of an image, what the last block's eager attention makes of each four, in raster
    order: the attention that it receives [heads, N], and its keys [N, head size].
    """
    engine, reference = model
    original = engine.loaded.model.model.visual
    visual = copy.deepcopy(original)
    visual.set_attn_implementation("eager")
    module = importlib.import_module(type(visual).__module__)
    last, plain = visual.blocks[-1].attn, module.eager_attention_forward
    weights, states = [], []

    # transformers' `output_attentions` records what these blocks' attention returns, which is not
    # the weights.
    def noting(layer, *args, **kwargs):
        made = plain(layer, *args, **kwargs)
        if layer is last:
            weights.append(made[1][0])
        return made

    monkeypatch.setattr(module, "eager_attention_forward", noting)
    last.qkv.register_forward_hook(lambda *args: states.append(args[2]))

    def run(image):
        weights.clear()
        states.clear()
        if hasattr(original, "fullatt_block_indexes"):
            visual.fullatt_block_indexes = original.fullatt_block_indexes
        inputs = reference.inputs(image)
        with torch.inference_mode():
            seen = visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
            merged = visual.merger(seen.last_hidden_state)
        # What is merged in the encoder's order is found again in that of the visual tokens.
        raster = [int((merged == row).all(dim=1).nonzero()) for row in seen.pooler_output]
        of_heads = [torch.block_diag(*windows) for windows in zip(*weights, strict=True)]
        received = torch.stack(of_heads).mean(dim=1)
        keys = states[0].view(len(states[0]), 3, len(received), -1)[:, 1].mean(dim=1)
        fours = [received[:, 4 * four : 4 * four + 4].mean(dim=1) for four in raster]
        return torch.stack(fours, dim=1), torch.stack(
            [keys[4 * four : 4 * four + 4].mean(dim=0) for four in raster]
        )

    return run


@pytest.mark.parametrize(
    ("model", "windows"),  # in the last block, which has none of its own
    [("qwen2_5_vl", False), ("qwen2_5_vl", True), ("qwen3_vl", False)],
    indirect=["model"],
)
@pytest.mark.parametrize("shape", sorted(IMAGES))
def test_attention_and_keys_are_those_of_eager_attention(model, eager, shape, windows, monkeypatch):
    engine, _ = model
    if windows:
        monkeypatch.setattr(engine.loaded.model.model.visual, "fullatt_block_indexes", [0])
    seen = engine.features(IMAGES[shape], LOOKS)
    received, keys = eager(IMAGES[shape])
    assert received.std() > 0.1 * received.mean()  # else it would not matter whose it is
    torch.testing.assert_close(seen.class_attention, received, **CLOSE)
    torch.testing.assert_close(seen.keys, keys, **CLOSE)
    assert seen.class_attention.dtype == seen.keys.dtype == torch.float32
    assert seen.class_token is seen.class_key is None
    # Over all patches a row sums to 1, and a four has the mean of its patches.
    torch.testing.assert_close(seen.class_attention.sum(dim=1), torch.full((2,), 0.25), **CLOSE)


def test_only_what_is_needed_is_computed_and_changes_nothing(model):
    engine, _ = model
    plain, asked = engine.features(IMAGES["wide"]), engine.features(IMAGES["wide"], LOOKS)
    assert torch.equal(plain.patches, asked.patches)
    assert torch.equal(plain.projected, asked.projected)
    assert plain.class_attention is plain.keys is None
    assert engine.features(IMAGES["wide"], frozenset({"keys"})).class_attention is None
    blocks = engine.loaded.model.model.visual.blocks
    assert not blocks[-1].attn._forward_pre_hooks
    assert not blocks[-1].attn.qkv._forward_hooks


@pytest.mark.parametrize("budget", [5, 12, 20])
@pytest.mark.parametrize("selector", BY_ATTENTION)
def test_selectors_work_without_a_class_token(model, eager, selector, budget):
    engine, reference = model
    assert selector in engine.info.selectors
    engine.use_selector(selector, visual_tokens=budget)
    for image in IMAGES.values():
        scene = engine.see(image)
        received, keys = eager(image)
        features = VisualFeatures(
            reference.features(reference.inputs(image)),
            scene.grid,
            class_attention=received,
            keys=keys,
        )
        wanted = make_selector(selector)(features, Budget(budget))
        assert scene.tokens_kept == budget
        assert scene.selection.indices.tolist() == wanted.indices.tolist()
        answer = engine.ask(scene, "what is it?", max_new_tokens=2)
        assert set(answer.layer_tokens) == {budget}


def test_merged_fours_are_merged_in_all_that_belongs_to_them(model):
    engine, _ = model
    engine.use_selector("visionzip", visual_tokens=14)
    features = engine.features(IMAGES["tall"])
    selection = make_selector("visionzip")(features, Budget(14))
    merge = selection.merge.to_dense()
    assert int(((merge != 0).sum(dim=1) > 1).sum()) == 14 * 5 // 32
    tokens = engine.loaded.connector()(features, selection)
    width = engine.loaded.model.model.visual.blocks[0].norm1.weight.shape[0]
    with torch.inference_mode():
        rows = (merge[:, 1:] @ features.patches).view(-1, width)
        torch.testing.assert_close(tokens.rows, engine.loaded.model.model.visual.merger(rows))
    assert (tokens.planes is None) == (features.planes is None)
    if features.planes is not None:
        torch.testing.assert_close(tokens.planes, merge[:, 1:] @ features.planes)


def test_attention_is_the_same_in_chunks_of_any_size(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 37, 3, 8, generator=generator).double()
    weights = (torch.einsum("qhd,khd->hqk", queries, keys) * 0.3).softmax(dim=-1)
    for chunk in (1, 5 * 3 * 37 * 4, 1 << 20):
        monkeypatch.setattr(attention, "CHUNK_BYTES", chunk)
        received = attention.attention_received(queries.float(), keys.float(), 0.3)
        torch.testing.assert_close(received.double(), weights.mean(dim=1), **CLOSE)


def test_attention_of_4000_patches_is_never_there_as_a_whole():
    states = torch.randn(2, 4000, 16, 8, generator=torch.Generator().manual_seed(0))
    attention.attention_received(*states[:, :64], 8**-0.5)  # what libraries take once
    before = in_use(torch.device("cpu"))
    with measured_peak(torch.device("cpu")) as peak:
        received = attention.attention_received(*states, 8**-0.5)
    assert received.shape == (16, 4000)
    assert peak.bytes - before < 100e6  # of 1 GB


@pytest.mark.parametrize("model_type", QWENS)
@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (64, 48), (333, 777), (1920, 1080)])
def test_bounds_of_pixels_are_obeyed(model_type, size):
    side = SIDES[model_type]
    for least, most in ((40, 120), (200, 500), (6, 24)):
        bounds = {"min_pixels": least * side**2, "max_pixels": most * side**2}
        options = ModelOptions(**bounds)
        family = family_of(TINY + model_type)
        processor = family.image_processor(None, family.random_config(TINY + model_type), options)
        rows, columns = processor(black(*size), "pad").framing.grid
        assert least <= rows * columns <= most


def test_bounds_of_pixels_reach_the_engine(model):
    plain, _ = model
    model_type = plain.info.model.removeprefix(TINY)
    area = SIDES[model_type] ** 2
    image = black(640, 480)
    few = load(model_type, max_pixels=50 * area)
    assert few.info.visual_tokens_total == few.see(image).tokens_total <= 50
    assert few.see(IMAGES["square"]).tokens_total == plain.see(IMAGES["square"]).tokens_total
    many = load(model_type, min_pixels=500 * area)
    assert many.info.visual_tokens_total == many.see(image).tokens_total >= 500
    assert many.see(black(20, 20)).tokens_total >= 500
    # Close together they are met by a row and a column more or less.
    one = load(model_type, min_pixels=100 * area, max_pixels=100 * area).see(image)
    assert abs(one.tokens_total - 100) <= sum(one.grid)


@pytest.mark.parametrize("model_type", QWENS)
@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"min_pixels": 0}, r"min_pixels must be a whole number of 1 or more, not 0\."),
        ({"max_pixels": -4}, r"max_pixels must be a whole number of 1 or more, not -4\."),
        ({"max_pixels": 2.5e5}, r"max_pixels must be a whole number of 1 or more, not 250000.0\."),
        ({"min_pixels": True}, r"min_pixels must be a whole number of 1 or more, not True\."),
        (
            {"min_pixels": 90_000, "max_pixels": 80_000},
            r"min_pixels \(90000\) is more than max_pixels \(80000\)\.",
        ),
        ({"max_pixels": 700}, r"max_pixels must be \d+ or more for this model, not 700\."),
        ({"min_pixels": 10**9}, r"min_pixels must be \d+ or less for this model, not 1000000000\."),
    ],
)
def test_wrong_bounds_are_refused_in_a_sentence(model_type, bounds, sentence):
    with pytest.raises(UserError, match=rf"^{sentence}$"):
        load(model_type, **bounds)


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 1), (1, 50), (1400, 28), (20, 3), (40, 1), (9, 4), (9, 450), (31, 33)]
)
def test_small_and_long_images_are_seen(model, size):
    engine, reference = model
    engine.use_selector("none")
    image = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    scene = engine.see(image)
    wanted = reference.generate(image, "what is it?", 4)
    assert engine.ask(scene, "what is it?", max_new_tokens=4).token_ids == wanted
    assert (scene.grid[0] - scene.grid[1]) * (size[1] - size[0]) >= 0  # as long as the image is
    engine.use_selector("svd", visual_tokens=4)
    kept = engine.see(image)
    for index in kept.selection.indices.tolist():
        x0, y0, x1, y1 = kept.patch_box(index)
        assert 0 <= x0 < x1 <= size[0]
        assert 0 <= y0 < y1 <= size[1]


@pytest.mark.parametrize("size", [(51, 1), (10, 2000)])
def test_longer_images_are_refused(model, size):
    with pytest.raises(UserError, match="too long and thin"):
        model[0].see(black(*size))


@pytest.mark.parametrize(
    ("model_type", "size", "tokens"),
    [
        ("qwen2_5_vl", (640, 480), 391),
        ("qwen2_5_vl", (1280, 720), 1196),
        ("qwen3_vl", (640, 480), 300),
        ("qwen3_vl", (1280, 720), 880),
    ],
)
def test_visual_tokens_in_full_size_are_as_published(model_type, size, tokens):
    name = FULL_SIZE[model_type]
    family = family_of(name)
    assert family.model_type == model_type
    images = family.image_processor(None, family.random_config(name), ModelOptions())
    made = images(black(*size), "pad")
    rows, columns = made.framing.grid
    assert (rows * columns, len(made.pixels)) == (tokens, 4 * tokens)
    view = family.sizes(name).view((size[1], size[0]))
    assert (view.tokens, view.patches) == (tokens, 4 * tokens)
    if size == (640, 480):
        assert tokens == images.tokens


@pytest.mark.parametrize(
    ("model_type", "weights"), [("qwen2_5_vl", 3_754_622_976), ("qwen3_vl", 2_127_532_032)]
)
def test_full_size_models_have_the_published_number_of_weights(model_type, weights):
    family = family_of(FULL_SIZE[model_type])
    config = family.random_config(FULL_SIZE[model_type])
    with torch.device("meta"):
        model = family.model_class()._from_config(config)
    assert sum(each.numel() for each in model.parameters()) == weights
