# SPDX-License-Identifier: Apache-2.0
"""InternVL3: its published numbers of tokens, tiles and their bounds, class tokens, checkpoints."""

import json

import numpy as np
import pytest
import torch
from families.reference_internvl import InternVL
from PIL import Image
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from svd_vlm_ros import models
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.images import TiledFraming
from svd_vlm_ros.models.interface import ModelOptions
from svd_vlm_ros.models.internvl import FAMILY, MEAN, STD

TILE = 448 * 448
FULL = ("random:internvl3-1b", "random:internvl3-2b")
TINY = "random:tiny-internvl"


def images(name=FULL[0], folder=None, **options):
    return FAMILY.image_processor(folder, FAMILY.random_config(name), ModelOptions(**options))


def noise(height, width):
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def patches(framing):
    tiles = framing.tiles if isinstance(framing, TiledFraming) else [framing]
    return sum(tile.grid[0] * tile.grid[1] for tile in tiles)


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize(("shape", "count"), [((480, 640), 3328), ((720, 1280), 2304)])
def test_the_published_numbers_of_tokens(name, shape, count):
    made = images(name)(noise(*shape), "pad")
    assert patches(made.framing) == count
    assert made.pixels.shape == (count // 256, 3, 448, 448)
    assert made.framing.thumbnail == count // 256 - 1
    assert images(name).tokens == 3328
    assert images(name).grid is None


def test_tiles_cover_the_image_row_by_row_and_the_thumbnail_comes_last():
    framing = images()(noise(480, 640), "pad").framing  # 3 rows of 4 tiles
    assert framing.patch_box(0) == (0, 0, 10, 10)
    assert framing.patch_box(256) == (160, 0, 170, 10)
    assert framing.patch_box(4 * 256 + 17) == (10, 170, 20, 180)
    assert framing.patch_box(12 * 256 - 1) == (630, 470, 640, 480)
    assert framing.patch_box(12 * 256) == (0, 0, 40, 30)
    assert framing.patch_box(13 * 256 - 1) == (600, 450, 640, 480)
    assert framing.valid() is None


@pytest.mark.parametrize("pixels", [TILE, 2 * TILE - 1])
def test_a_bound_below_two_tiles_means_one_tile_for_every_image(pixels):
    one = images(max_pixels=pixels)
    assert (one.tokens, one.grid, one.size) == (256, (16, 16), 448)
    for shape in ((480, 640), (720, 1280), (448, 448)):
        made = one(noise(*shape), "pad")
        assert made.pixels.shape == (1, 3, 448, 448)
        assert made.framing.grid == (16, 16)
        assert made.framing.patch_box(255)[2:] == (shape[1], shape[0])


@pytest.mark.parametrize(
    ("options", "shape", "tiles"),
    [
        ({"max_pixels": 4 * TILE}, (480, 640), 1),  # none of two to four is nearer to 4:3
        ({"max_pixels": 6 * TILE}, (480, 640), 7),  # 3 x 2 and the thumbnail
        ({"max_pixels": 20 * TILE}, (480, 640), 13),
        ({"min_pixels": 2 * TILE}, (448, 448), 5),
        ({"min_pixels": 20 * TILE}, (448, 448), 21),
        ({"min_pixels": TILE + 1, "max_pixels": 2 * TILE}, (100, 100), 3),
    ],
)
def test_bounds_of_pixels_are_bounds_of_tiles(options, shape, tiles):
    made = images(**options)(noise(*shape), "pad")
    assert len(made.pixels) == patches(made.framing) // 256 == tiles
    of_rectangle = tiles - 1 if tiles > 1 else 1
    least, most = options.get("min_pixels", 1), options.get("max_pixels", 128 * TILE)
    assert least <= of_rectangle * TILE <= most


@pytest.mark.parametrize(
    "options",
    [{"max_pixels": TILE - 1}, {"min_pixels": TILE + 1, "max_pixels": 2 * TILE - 1}],
)
def test_bounds_without_a_whole_tile_between_them_are_refused(options):
    with pytest.raises(UserError, match="1 to 128 tiles"):
        images(**options)


def test_bounds_beyond_all_reason_end_at_once():
    assert images(max_pixels=10**15).processor.max_patches == 128
    with pytest.raises(UserError, match="1 to 128 tiles"):
        images(min_pixels=10**15)


@pytest.mark.parametrize("shape", [(50, 1), (1, 50), (1, 1), (3, 100), (100, 3), (3, 3), (1, 3)])
def test_images_of_odd_shapes(shape):
    image = noise(*shape)
    made = images()(image, "pad")
    # Pillow's images say themselves where their channels are.
    wanted = images().processor(images=Image.fromarray(image), return_tensors="pt")
    assert torch.equal(made.pixels, wanted["pixel_values"])
    assert patches(made.framing) == 256 * len(made.pixels)
    assert len(made.pixels) <= 13
    for index in range(patches(made.framing)):
        x0, y0, x1, y1 = made.framing.patch_box(index)
        assert 0 <= x0 < x1 <= shape[1] + 1e-9
        assert 0 <= y0 < y1 <= shape[0] + 1e-9


def settings(folder, **changed):
    """What InternVL3's preprocessor_config.json says."""
    said = {
        "crop_to_patches": False,  # the processor cuts all the same
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "image_mean": MEAN,
        "image_std": STD,
        "max_patches": 12,
        "min_patches": 1,
        "resample": 3,
        "size": {"height": 448, "width": 448},
        **changed,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def test_the_bounds_of_tiles_are_the_checkpoints(tmp_path):
    read = images(folder=settings(tmp_path))
    image = noise(300, 500)
    assert torch.equal(read(image, "pad").pixels, images()(image, "pad").pixels)
    read = images(folder=settings(tmp_path, min_patches=2, max_patches=3))
    assert {len(read(noise(*shape), "pad").pixels) for shape in ((9, 9), (9, 30))} == {3, 4}


@pytest.mark.parametrize("size", [(448, 224), (450, 450)])
def test_tiles_that_are_no_squares_of_tokens_are_refused(tmp_path, size):
    folder = settings(tmp_path, size={"height": size[0], "width": size[1]})
    with pytest.raises(UserError, match="squares of a multiple of 28"):
        images(folder=folder)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"text_config": {"model_type": "mamba"}}, "with the language model 'mamba'"),
        ({"text_config": {"model_type": "qwen2", "use_sliding_window": True}}, "sliding window"),
        ({"vision_feature_layer": -2}, "other features"),
        ({"vision_feature_select_strategy": "full"}, "other features"),
    ],
)
def test_a_configuration_that_can_not_run_is_refused_in_a_sentence(config, sentence):
    with pytest.raises(UserError, match=sentence):
        FAMILY.check("some/model", config)
    FAMILY.check("some/model", {"text_config": {"model_type": "qwen3"}})


def test_sizes_are_those_of_the_models_weights():
    for name, total in zip(FULL, (0.94e9, 2.09e9), strict=True):  # as published
        assert FAMILY.sizes(name).weights == pytest.approx(total, rel=0.01)


@pytest.fixture(scope="module")
def trained():
    """A tiny model whose class token and position embeddings are not zero, as after training."""
    loaded = models.load(TINY, precision="fp32", device="cpu")
    embeddings = loaded.model.model.vision_tower.embeddings
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        embeddings.cls_token.normal_()
        embeddings.position_embeddings.normal_()
    return loaded


def test_features_are_those_of_a_tower_that_knows_positions(trained):
    made = trained.images(noise(100, 130), "pad")
    with torch.inference_mode():
        features = trained.encoder()(made, frozenset({"projected"}))
        wanted = trained.model.model.get_image_features(made.pixels, return_dict=True)
    torch.testing.assert_close(features.projected, wanted.pooler_output.flatten(0, 1))


def test_class_attention_is_that_of_each_tiles_class_token(trained):
    made = trained.images(noise(100, 130), "pad")
    tower = trained.model.model.vision_tower
    with torch.inference_mode():
        found = trained.encoder()(made, frozenset({"class_attention"})).class_attention
        tower.set_attn_implementation("eager")
        weights = tower(made.pixels, output_attentions=True).attentions[-1][:, :, 0, 1:]
        tower.set_attn_implementation("sdpa")
    tiles, heads, _ = weights.shape
    assert tiles > 2
    fours = weights.view(tiles, heads, 2, 2, 2, 2).mean(dim=(3, 5)) / tiles
    assert found.shape == (heads, 4 * tiles)
    torch.testing.assert_close(found, fours.permute(1, 0, 2, 3).reshape(heads, -1))
    assert bool((found.sum(dim=1) < 1).all())


def test_selectors_that_need_one_class_token_or_keys_are_refused():
    engine = SceneEngine.load(TINY, precision="fp32", device="cpu")
    assert {"hired", "scope", "vispruner", "fastv"} <= set(engine.info.selectors)
    assert not {"visionzip", "tome"} & set(engine.info.selectors)


TEXT = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}


@pytest.mark.parametrize("text", [Qwen2Config, Qwen3Config, LlamaConfig])
def test_checkpoints_with_each_language_model_equal_generate(tmp_path, text, trained):
    start, end = trained.tokenizer.bos_token_id, trained.tokenizer.eos_token_id
    config = InternVLConfig(
        vision_config=trained.model.config.vision_config,
        text_config=text(**TEXT, bos_token_id=start, eos_token_id=end),
        image_token_id=trained.model.config.image_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(1)
    InternVLForConditionalGeneration(config).save_pretrained(tmp_path)
    trained.tokenizer.save_pretrained(tmp_path)
    settings(tmp_path, size={"height": 56, "width": 56})
    (tmp_path / "chat_template.jinja").write_text(FAMILY.chat_template)
    engine = SceneEngine.load(str(tmp_path), precision="fp32", device="cpu", selector="none")
    reference = InternVL(engine.loaded)
    for shape in ((90, 210), (140, 140)):
        scene = engine.see(noise(*shape))
        answer = engine.ask(scene, "what is it?", max_new_tokens=6)
        assert answer.token_ids == reference.generate(noise(*shape), "what is it?", 6)


def test_the_processor_puts_its_marks_around_the_image():
    loaded = models.load(TINY, precision="fp32", device="cpu")
    prompt = loaded.prompt("be brief")
    first, last = loaded.tokenizer.convert_tokens_to_ids(["<img>", "</img>"])
    assert prompt.before[-1] == first
    assert prompt.after("what is it?")[0] == last
    assert prompt.text("what is it?") == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n"
        "<img><IMG_CONTEXT></img>\nwhat is it?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_what_generate_takes_is_what_the_published_processor_makes():
    loaded = models.load(TINY, precision="fp32", device="cpu")
    reference, image = InternVL(loaded), noise(100, 130)
    made = loaded.stock_inputs(image, "what is it?")
    inputs = reference.inputs(image)
    ids = torch.tensor([reference.ids(inputs, "what is it?")])
    wanted = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **inputs}
    wanted |= reference.extra(ids)
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[key], wanted[key]) for key in wanted)
