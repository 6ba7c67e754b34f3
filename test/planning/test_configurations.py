# SPDX-License-Identifier: Apache-2.0
"""Sizes and images of every family: against transformers' modules and processors."""

import copy
import dataclasses
import json
import random
import types

import pytest
import torch
from torch import nn

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.configurations import sizes_from_config
from svd_vlm_ros.planning.flops import true_work, vision_work
from svd_vlm_ros.planning.known import CONFIGURATIONS, NAMES, find_sizes, short_name
from svd_vlm_ros.planning.views import LONGEST, View

VGA, HD = (480, 640), (720, 1280)

# Tokens of an image of 640 x 480 and of 1280 x 720 in the stock model's prompt, as its own
# processor counts them; newlines and tiles.
COUNTS = {
    "llava-1.5-7b": (576, 576, (0, 0), (1, 1)),
    "llava-v1.6-vicuna-7b": (2340, 1948, (36, 28), (5, 5)),
    "llava-onevision-qwen2-0.5b-ov": (2929, 5967, (40, 54), (5, 9)),
    "qwen2.5-vl-3b": (391, 1196, (0, 0), (1, 1)),
    "qwen3-vl-2b": (300, 880, (0, 0), (1, 1)),
    "smolvlm2-2.2b": (1053, 1053, (0, 0), (13, 13)),
    "smolvlm2-500m": (832, 832, (0, 0), (13, 13)),
    "internvl3-1b": (3328, 2304, (0, 0), (13, 9)),
    "internvl3-2b": (3328, 2304, (0, 0), (13, 9)),
    "gemma-3-4b": (256, 256, (0, 0), (1, 1)),
}
# Millions, as the hub shows them.
PARAMETERS = {
    "llava-hf/llava-1.5-7b-hf": 7_063,
    "llava-hf/llava-1.5-13b-hf": 13_351,
    "llava-hf/llava-v1.6-vicuna-7b-hf": 7_063,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": 894,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_755,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292,
    "Qwen/Qwen3-VL-2B-Instruct": 2_128,
    "Qwen/Qwen3-VL-4B-Instruct": 4_438,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767,
    "nvidia/Cosmos-Reason2-2B": 2_128,
    "nvidia/Cosmos-Reason2-8B": 8_767,
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": 507,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2_247,
    "OpenGVLab/InternVL3-1B-hf": 938,
    "OpenGVLab/InternVL3-2B-hf": 2_089,
    "google/gemma-3-4b-it": 4_300,
}


def stock_config(config):
    """The configuration of transformers that a config.json like this one becomes."""
    from transformers import CONFIG_MAPPING

    kind = config["model_type"]
    given = {key: value for key, value in copy.deepcopy(config).items() if key != "model_type"}
    text_type = "llama" if kind in ("llava", "llava_next", "smolvlm", "idefics3") else "qwen2"
    towers = {"llava": "clip_vision_model", "llava_next": "clip_vision_model"}
    towers["llava_onevision"] = towers["gemma3"] = "siglip_vision_model"
    text_type = "gemma3_text" if kind == "gemma3" else text_type
    if not kind.startswith("qwen"):
        given["text_config"] = {"model_type": text_type, **given["text_config"]}
    if kind in towers and "vision_config" in given:
        given["vision_config"] = {
            "model_type": towers[kind],
            "num_attention_heads": 16,
            **given["vision_config"],
        }
    return CONFIG_MAPPING[kind](**given)


def stock_model(config, device="meta"):
    from transformers import AutoModelForImageTextToText

    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config)


def parameters(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_images_become_as_many_tokens_as_in_the_stock_model(name):
    vga, hd, newlines, tiles = COUNTS[name]
    views = [find_sizes(name).view(size) for size in (VGA, HD)]
    assert [view.prompt_tokens for view in views] == [vga, hd]
    assert tuple(view.newlines for view in views) == newlines
    assert tuple(view.tiles for view in views) == tiles


def some_sizes(count=400):
    generator = random.Random(0)
    for _ in range(count):
        yield generator.randint(1, 2400), generator.randint(1, 2400)
    yield from ((1, 1), (1, 2000), (2000, 1), (336, 336), (384, 384), (1080, 1920), (448, 448))


def count_by_processor(name):
    """A function from an image's size to the tokens that transformers' processor makes of it."""
    config = stock_config(dict(CONFIGURATIONS[name]))
    kind = config.model_type
    if kind.startswith("qwen"):
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        unit = config.vision_config.patch_size * config.vision_config.spatial_merge_size
        bounds = (65536, 16777216) if kind == "qwen3_vl" else (56 * 56, 28 * 28 * 16384)

        def count(size):
            height, width = smart_resize(*size, unit, *bounds)
            return (height // unit) * (width // unit)

        return count
    tile = config.vision_config.image_size
    if kind == "internvl":
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
            GotOcr2ImageProcessorPil,
        )

        side = {"height": tile[0], "width": tile[1]}
        tiles = GotOcr2ImageProcessorPil(size=side, crop_to_patches=True, max_patches=12)
        return lambda size: 256 * tiles.get_number_of_image_patches(*size, {})
    if kind == "smolvlm":
        from transformers.models.smolvlm.image_processing_pil_smolvlm import (
            SmolVLMImageProcessorPil,
        )

        edges = {"size": {"longest_edge": 4 * tile}, "max_image_size": {"longest_edge": tile}}
        tiles = SmolVLMImageProcessorPil(**edges)
        each = (tile // config.vision_config.patch_size // config.scale_factor) ** 2
        return lambda size: each * tiles.get_number_of_image_patches(*size, {})[0]
    if kind == "gemma3":
        return lambda size: config.mm_tokens_per_image
    from transformers import LlavaNextProcessor, LlavaOnevisionProcessor

    processor = object.__new__(
        LlavaNextProcessor if kind == "llava_next" else LlavaOnevisionProcessor
    )
    processor.image_processor = types.SimpleNamespace(
        image_grid_pinpoints=[list(canvas) for canvas in config.image_grid_pinpoints]
    )
    processor.patch_size = config.vision_config.patch_size
    processor.num_image_tokens = (tile // config.vision_config.patch_size) ** 2
    processor.num_additional_image_tokens = 0
    processor.vision_aspect_ratio = "anyres_max_9"
    return lambda size: processor._get_number_of_features(*size, tile, tile)


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if "llava-1.5" not in name])
def test_images_of_any_size_are_counted_as_the_processor_does(name):
    count, sizes = count_by_processor(name), find_sizes(name)
    for size in some_sizes():
        if name.startswith(("Qwen", "nvidia")) and max(size) > LONGEST * min(size):
            with pytest.raises(UserError, match="is too long for this model"):
                sizes.view(size)
            continue
        assert sizes.view(size).prompt_tokens == count(size), size


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_weights_are_those_of_the_modules(name):
    config = stock_config(dict(CONFIGURATIONS[name]))
    sizes, model = find_sizes(name), stock_model(config)
    language = getattr(model.model, "text_model", None) or model.model.language_model
    eye = parameters(model) - parameters(language)
    if not sizes.decoder.tied:
        eye -= parameters(model.lm_head)
    assert sizes.tower.weights + sizes.connector.weights == eye
    # Biases and norms of queries and keys are left out.
    assert sizes.weights == pytest.approx(parameters(model), rel=1e-3)
    linears = [m for m in language.modules() if isinstance(m, nn.Linear)]
    assert sizes.decoder.linear_weights == sum(m.weight.numel() for m in linears)
    assert sizes.decoder.linear_rows == sum(m.out_features for m in linears)
    assert sizes.weights / 1e6 == pytest.approx(PARAMETERS[name], abs=1)
    # What transformers writes into a config.json is the same model as our few numbers.
    assert sizes_from_config(name, config.to_dict()) == sizes


TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
TINY_EYE = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}
TINY_TILES = {**TINY_EYE, "num_hidden_layers": 3, "image_size": 28, "patch_size": 7}
TINY_QWEN = {"depth": 3, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2}
TINY = {
    "llava_next": {
        "vision_config": TINY_TILES,
        "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
    },
    "llava_onevision": {
        "vision_config": {**TINY_TILES, "vision_use_head": False},
        "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
    },
    "smolvlm": {"vision_config": TINY_TILES, "scale_factor": 2},
    "idefics3": {"vision_config": TINY_TILES, "scale_factor": 4},
    "internvl": {"vision_config": {**TINY_TILES, "image_size": [28, 28], "patch_size": [7, 7]}},
    "gemma3": {
        "vision_config": {**TINY_TILES, "vision_use_head": False},
        "mm_tokens_per_image": 4,
    },
    "qwen3_vl": {
        "vision_config": {**TINY_QWEN, "out_hidden_size": 32, "deepstack_visual_indexes": [0, 1]}
    },
    "qwen2_5_vl": {
        "vision_config": {**TINY_QWEN, "out_hidden_size": 32, "fullatt_block_indexes": [1]}
    },
}


def image_features(model, sizes, view):
    """Run tower and connector over an image of a size that gives this view."""
    kind = model.config.model_type
    if kind.startswith("qwen"):
        side = int(view.patches**0.5)
        pixels = torch.zeros(view.patches, sizes.tower.patch_pixels)
        return model.model.get_image_features(pixels, torch.tensor([[1, side, side]]))
    tiles = torch.rand(1, view.tiles, 3, 28, 28)
    if kind in ("llava_next", "llava_onevision"):
        return model.model.get_image_features(tiles, torch.tensor([[56, 56]]))
    return model.model.get_image_features(tiles[0] if kind in ("internvl", "gemma3") else tiles)


@pytest.mark.parametrize("kind", TINY)
def test_the_count_of_operations_is_what_the_modules_multiply(kind):
    given = {"model_type": kind, "text_config": TINY_TEXT, **TINY[kind]}
    config = stock_config(given)
    sizes, model = sizes_from_config(kind, config.to_dict()), stock_model(config, "cpu").eval()
    size = (256, 256) if kind.startswith("qwen") else (56, 56)
    view = sizes.view(size)
    counted = []

    def count(module, _, output):
        if isinstance(module, nn.Linear):
            counted.append(output.numel() * module.in_features)
        elif isinstance(module, nn.Conv2d | nn.Conv3d):
            counted.append(output.numel() * module.weight[0].numel())
        elif hasattr(module, "mm_input_projection_weight"):  # Gemma's matrix is no module
            counted.append(output.shape[1] * module.mm_input_projection_weight.numel())

    eyes = [m for name, m in model.named_modules() if "language" not in name and "text" not in name]
    for module in eyes:
        module.register_forward_hook(count)
    with torch.inference_mode():
        image_features(model, sizes, view)
    tower, rows = sizes.tower, sizes.tower.rows(view) / view.tiles
    full = tower.full_layers if tower.window else tower.layers_used
    attention = full * rows + (tower.layers_used - full) * min(tower.window, rows)
    attention *= 2 * sizes.tower.rows(view) * tower.hidden
    # LLaVA's heirs project the padding, too, before it is cut off.
    projected = view.patches if kind.startswith("llava") else view.tokens
    linear = vision_work(tower, view) - attention + projected * sizes.connector.token_macs
    skipped = tower.layers - tower.layers_used  # transformers computes them all the same
    layer = 4 * tower.hidden**2 + tower.matrices * tower.hidden * tower.intermediate
    assert sum(counted) == linear + skipped * sizes.tower.rows(view) * layer


def test_patches_are_counted_apart_from_tokens():
    sizes = find_sizes("qwen3-vl-2b")
    assert sizes.view(VGA) == View(patches=1200, tokens=300)
    few, many = (true_work(sizes, kept, 50, VGA) for kept in (16, 300))
    assert few.vision == many.vision
    assert few.language < many.language / 3
    assert true_work(sizes, 16, 50, HD).vision > 2.9 * few.vision
    with pytest.raises(UserError, match="1 to 300 visual tokens to keep of an image of 640x480"):
        true_work(sizes, 301, 50, VGA)


def test_a_newline_stays_with_its_row():
    view = find_sizes("llava-v1.6-vicuna-7b").view(VGA)
    assert view.read(view.tokens) == view.prompt_tokens == 2340
    assert view.read(16) == 32


def test_windows_make_attention_cheaper():
    sizes = find_sizes("qwen2.5-vl-3b")
    full = dataclasses.replace(sizes.tower, window=0)
    assert sizes.tower.window == 64
    assert vision_work(sizes.tower, sizes.view(HD)) < 0.8 * vision_work(full, sizes.view(HD))


def test_an_older_file_of_qwen_has_the_language_model_at_the_top(tmp_path):
    new = CONFIGURATIONS["Qwen/Qwen2.5-VL-3B-Instruct"]
    old = {**new["text_config"], **{key: new[key] for key in new if key != "text_config"}}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert find_sizes(str(tmp_path)).decoder == find_sizes("qwen2.5-vl-3b").decoder


def test_a_head_is_tied_if_either_level_of_the_file_says_so():
    known = CONFIGURATIONS["llava-hf/llava-onevision-qwen2-0.5b-ov-hf"]
    below = {**known, "text_config": {**known["text_config"], "tie_word_embeddings": True}}
    del below["tie_word_embeddings"]
    assert sizes_from_config("below", below).decoder.tied
    assert not find_sizes("internvl3-1b").decoder.tied
    # Of a Gemma 3 it is, unless the file says otherwise.
    assert find_sizes("gemma-3-4b").decoder.tied
    known = {**CONFIGURATIONS["google/gemma-3-4b-it"], "tie_word_embeddings": False}
    assert not sizes_from_config("apart", known).decoder.tied


def test_names_are_those_of_the_hub_or_short():
    assert len(NAMES) == len(CONFIGURATIONS) + 1  # scout
    for name in CONFIGURATIONS:
        short = short_name(name)
        assert short in NAMES
        assert dataclasses.replace(find_sizes(short), name=name) == find_sizes(name)
    assert find_sizes("random:qwen3-vl-2b").decoder == find_sizes("qwen3-vl-2b").decoder
    assert find_sizes("qwen/qwen3-vl-2b-instruct").name == "qwen/qwen3-vl-2b-instruct"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "paligemma"}, "its model_type is 'paligemma', and those known are llava, "),
        (
            {"model_type": "llava", "text_config": {"model_type": "opt"}},
            "The language model 'opt' can't be planned: those known are llama, ",
        ),
        (
            {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}},
            "The vision tower 'siglip_vision_model' can't be planned in a 'llava'",
        ),
        (
            {"model_type": "llava", "vision_feature_layer": [-2, -5]},
            "is not that of a 'llava'",
        ),
        (
            {"model_type": "qwen3_vl", "vision_config": {"patch_size": "large"}},
            "is not that of a 'qwen3_vl'",
        ),
        ({"model_type": "smolvlm", "text_config": [1]}, "is not that of a 'smolvlm'"),
    ],
)
def test_what_can_not_be_planned_is_said_in_a_sentence(config, sentence):
    with pytest.raises(UserError, match=sentence):
        sizes_from_config("this", config)


def test_a_file_that_is_no_object_is_named(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="holds no JSON object"):
        find_sizes(str(tmp_path))


def test_an_image_of_nothing_is_refused():
    with pytest.raises(UserError, match="An image can't be 0x480 pixels large"):
        find_sizes("qwen3-vl-2b").view((480, 0))
