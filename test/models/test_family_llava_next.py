"""LLaVA-NeXT's own cases; what all families are held to is in test_families.py."""

import json

import numpy as np
import pytest
import torch
from families.reference_llava_next import LlavaNext
from transformers import LlavaNextForConditionalGeneration, MistralConfig

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models import family_of
from svd_vlm_ros.models.interface import ModelOptions

TINY, FULL = "random:tiny-llava_next", "random:llava-next-7b"
FAMILY = family_of(TINY)
QUESTION = "is the path clear ahead, and how is the sky?"


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine():
    return SceneEngine.load(TINY, precision="fp32", device="cpu", selector="none")


def check_equals_generate(engine, image):
    reference = LlavaNext(engine.loaded)
    engine.use_selector("none")
    scene = engine.see(image)
    answer = engine.ask(scene, QUESTION, max_new_tokens=8)
    assert answer.token_ids == reference.generate(image, QUESTION, 8)
    return scene


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 3), (3, 150), (150, 3), (40, 2000)])
def test_the_smallest_and_the_thinnest_images_equal_generate(engine, shape):
    check_equals_generate(engine, noise(*shape))


@pytest.mark.parametrize("shape", [(1, 50), (50, 1)])
def test_of_an_image_too_thin_for_a_patch_the_thumbnail_is_left(engine, shape):
    image = noise(*shape)
    scene = check_equals_generate(engine, image)
    assert scene.tokens_total == 16
    assert scene.patch_box(15)[2:] == (shape[1], shape[0])
    for selector in ("svd", "grid"):
        engine.use_selector(selector, visual_tokens=5)
        assert engine.see(image).tokens_kept == 5


def test_what_class_tokens_see_is_what_transformers_says(engine):
    image = noise(90, 210)
    model, made = engine.loaded.model, engine.loaded.images(image, "pad")
    tower = model.model.vision_tower
    features = engine.loaded.encoder()(made, frozenset({"class_attention", "keys"}))
    asked = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    try:
        seen = tower(made.pixels, output_attentions=True, output_hidden_states=True)
    finally:
        tower.set_attn_implementation(asked)
    attention = seen.attentions[-2][:, :, 0, 1:]  # [tiles, heads, n]: of the layer that is read
    wanted = made.framing.packing.pack(attention.transpose(1, 2)).T / len(attention)
    assert torch.allclose(features.class_attention, wanted, atol=1e-6)
    assert torch.allclose(features.class_token, seen.hidden_states[-2][0, 0], atol=1e-5)
    assert features.keys.shape == (len(features), len(features.class_key))


def test_a_checkpoint_with_mistral_and_settings_of_its_own(tmp_path, monkeypatch):
    config = FAMILY.random_config(TINY)
    config.text_config = MistralConfig(
        **{
            key: value for key, value in config.text_config.to_dict().items() if key != "model_type"
        },
        sliding_window=None,
    )
    monkeypatch.setattr(type(FAMILY), "random_config", lambda self, name: config)
    made = FAMILY.load(TINY, precision="fp32", device="cpu", seed=3, options=ModelOptions())
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    processor = made.images.processor
    processor.image_mean = [0.4] * 3
    processor.save_pretrained(tmp_path)
    engine = SceneEngine.load(str(tmp_path), precision="fp32", device="cpu", selector="none")
    assert engine.loaded.images.processor.image_mean == (0.4,) * 3
    assert engine.loaded.model.config.text_config.model_type == "mistral"
    reference = LlavaNext(engine.loaded)
    monkeypatch.setattr(
        reference,
        "inputs",
        lambda image: dict(
            processor(images=image, input_data_format="channels_last", return_tensors="pt")
        ),
    )
    image = noise(200, 110)
    written = engine.ask(engine.see(image), QUESTION, max_new_tokens=8).token_ids
    assert written == reference.generate(image, QUESTION, 8)
    # A processor of other tiles does not belong to it.
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    settings["crop_size"] = {"height": 56, "width": 56}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="cuts tiles of 56 pixels, its model takes 28"):
        SceneEngine.load(str(tmp_path), precision="fp32", device="cpu")


def test_without_a_chat_template_nothing_is_guessed(tmp_path, engine):
    engine.loaded.model.save_pretrained(tmp_path)
    engine.loaded.tokenizer.save_pretrained(tmp_path)
    engine.loaded.images.processor.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no chat template"):
        SceneEngine.load(str(tmp_path), precision="fp32", device="cpu")
    vicuna = "USER: <image>\n{{ messages[0].content[1].text }} ASSISTANT:"
    (tmp_path / "chat_template.jinja").write_text(vicuna)
    own = SceneEngine.load(str(tmp_path), precision="fp32", device="cpu")
    assert own.loaded.prompt(None).text("why?") == "USER: <image>\nwhy? ASSISTANT:"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text_config": {"model_type": "qwen2"}}, "runs it with llama or mistral"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "has the vision tower 'siglip"),
        ({"vision_feature_layer": [-2, -5]}, "mixes several vision layers"),
        ({"vision_feature_select_strategy": "full"}, "selects vision features by 'full'"),
        ({"text_config": {"model_type": "mistral"}}, "looks at a window of its last tokens"),
        ({"quantization_config": {}}, "quantized already"),
    ],
)
def test_what_cannot_run_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        FAMILY.check("some/model", {"model_type": "llava_next", **changes})


def test_what_the_published_checkpoints_say_can_run():
    mistral = {"model_type": "mistral", "sliding_window": None}
    for text in ({"model_type": "llama"}, mistral, {}):
        FAMILY.check("some/model", {"text_config": text, "vision_feature_layer": -2})


def test_sizes_are_those_of_the_model():
    sizes = FAMILY.sizes(FULL)
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(FAMILY.random_config(FULL))
    wanted = sum(weight.numel() for weight in model.parameters())
    assert abs(sizes.weights - wanted) < 1e-5 * wanted  # the newline is not counted
    assert sizes.tower.layers_used == 23
