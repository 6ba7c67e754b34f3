"""LLaVA-OneVision's own cases; what all families are held to is in test_families.py."""

import numpy as np
import pytest
import torch
from families.reference_llava_onevision import LlavaOnevision
from transformers import LlavaOnevisionForConditionalGeneration

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models import family_of
from svd_vlm_ros.selection import Budget, VisualFeatures, make_selector
from svd_vlm_ros.selection.tiles import select_patches

TINY, FULL = "random:tiny-llava_onevision", "random:llava-onevision-0.5b"
FAMILY = family_of(TINY)
QUESTION = "is the path clear ahead, and how is the sky?"


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine():
    return SceneEngine.load(TINY, precision="fp32", device="cpu", selector="none")


@pytest.fixture(scope="module")
def full_tiles():
    """A tiny model that cuts images as the published ones do: (engine, reference)."""
    config, full = FAMILY.random_config(TINY), FAMILY.random_config(FULL)
    config.image_grid_pinpoints = full.image_grid_pinpoints
    config.vision_config.image_size = full.vision_config.image_size
    config.vision_config.patch_size = full.vision_config.patch_size
    config.vision_config.hidden_size, config.vision_config.num_hidden_layers = 16, 2
    config.text_config.max_position_embeddings = 16384
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(FAMILY), "random_config", lambda self, name: config)
        engine = SceneEngine.load(TINY, precision="fp32", device="cpu", selector="none")
    return engine, LlavaOnevision(engine.loaded)


def test_full_hd_equals_generate(full_tiles):
    engine, reference = full_tiles
    engine.use_selector("none")
    image = noise(1080, 1920)
    scene = engine.see(image)
    assert engine.loaded.images(image, "pad").framing.packing.shrinks
    written = engine.ask(scene, QUESTION, max_new_tokens=4).token_ids
    assert written == reference.generate(image, QUESTION, 4)


@pytest.mark.parametrize("selector", ["svd", "grid"])
def test_full_hd_pruned_equals_a_slow_reading(full_tiles, selector):
    engine, reference = full_tiles
    engine.use_selector(selector, visual_tokens=40)
    image = noise(1080, 1920)
    scene, inputs = engine.see(image), reference.inputs(image)
    framed = engine.features(image)
    features = VisualFeatures(
        reference.features(inputs), None, framed.valid, tiles=framed.tiles, thumbnail=0
    )
    kept = select_patches(make_selector(selector), features, Budget(40)).indices
    assert scene.selection.indices.tolist() == kept.tolist()
    wanted = reference.pruned(image, QUESTION, kept, False, 4)
    assert engine.ask(scene, QUESTION, max_new_tokens=4).token_ids == wanted


def test_tokens_of_a_shrunk_grid_are_the_models_own(engine):
    reference, image = LlavaOnevision(engine.loaded), noise(200, 110)
    engine.use_selector("svd", visual_tokens=9)
    features, scene = engine.features(image), engine.see(image)
    projected = reference.projected(reference.inputs(image))
    tokens = engine.loaded.connector()(features, scene.selection)
    newline = engine.loaded.model.model.image_newline
    patches = tokens.rows[(tokens.rows != newline).any(dim=1)]
    assert torch.allclose(patches, projected[scene.selection.indices], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (1, 50), (50, 1), (40, 2000), (2000, 40)])
def test_the_smallest_and_the_thinnest_images_equal_generate(engine, shape):
    image = noise(*shape)
    engine.use_selector("none")
    written = engine.ask(engine.see(image), QUESTION, max_new_tokens=8).token_ids
    assert written == LlavaOnevision(engine.loaded).generate(image, QUESTION, 8)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text_config": {"model_type": "llama"}}, "runs it with qwen2"),
        (
            {"text_config": {"model_type": "qwen2", "use_sliding_window": True}},
            "looks at a window of its last tokens",
        ),
        ({"vision_config": {"model_type": "clip_vision_model"}}, "has the vision tower 'clip"),
        ({"vision_feature_layer": [-1, -5]}, "mixes several vision layers"),
        ({"vision_feature_select_strategy": "default"}, "selects vision features by 'default'"),
        ({"vision_aspect_ratio": "square"}, "has the aspect ratio 'square'"),
    ],
)
def test_what_cannot_run_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        FAMILY.check("some/model", {"model_type": "llava_onevision", **changes})


def test_sizes_are_those_of_the_model():
    sizes = FAMILY.sizes(FULL)
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(FAMILY.random_config(FULL))
    wanted = sum(weight.numel() for weight in model.parameters())
    assert abs(sizes.weights - wanted) < 1e-3 * wanted  # biases of queries, keys and values
    assert sizes.tower.layers_used == 26
