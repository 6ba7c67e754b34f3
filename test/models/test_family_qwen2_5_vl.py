# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL's own: checkpoints as they are published, biases, windows. `test_qwens.py` has what it
shares with Qwen3-VL.
"""

import copy
import json

import numpy as np
import pytest
import torch
from families.reference_qwen2_5_vl import Qwen25VL
from family_reference import images
from safetensors.torch import save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.interface import ModelOptions
from svd_vlm_ros.models.registry import family_of, family_of_config

TINY = "random:tiny-qwen2_5_vl"
FOUR = 28 * 28
IMAGES = images()
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}:"
    "{% for part in m.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)


def published_name(name):
    """As the hub's files call a weight."""
    for ours, theirs in (("model.language_model.", "model."), ("model.visual.", "visual.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint as Qwen2.5-VL-3B is published: all sizes of the language model beside the
    others, older names of weights, tied embeddings; its biases are not zero.
    """
    folder = tmp_path_factory.mktemp("published")
    options = {"precision": "fp32", "device": "cpu", "seed": 3, "options": ModelOptions()}
    loaded = family_of(TINY).load(TINY, **options)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, weight in loaded.model.state_dict().items():
        if name != "lm_head.weight":
            made = torch.randn(weight.shape, generator=generator)
            weights[published_name(name)] = made if name.endswith("bias") else weight.contiguous()
    assert "model.layers.0.self_attn.q_proj.bias" in weights
    assert "visual.blocks.0.attn.qkv.bias" in weights
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text, vision = loaded.model.config.text_config, loaded.model.config.vision_config
    sizes = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "vocab_size", "max_position_embeddings", "rms_norm_eps"),
        *("bos_token_id", "eos_token_id", "hidden_act"),
    )
    vision_sizes = (
        *("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size"),
        *("patch_size", "spatial_merge_size", "temporal_patch_size", "window_size"),
        "fullatt_block_indexes",
    )
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "image_token_id": loaded.model.config.image_token_id,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "sliding_window": 32768,
        "max_window_layers": 70,
        "use_sliding_window": False,
        "vision_config": {
            **{size: getattr(vision, size) for size in vision_sizes},
            "in_chans": 3,
            "spatial_patch_size": 14,
        },
        **{size: getattr(text, size) for size in sizes},
    }
    loaded.tokenizer.save_pretrained(folder)
    files = {
        "config.json": config,
        "generation_config.json": {
            "eos_token_id": [
                loaded.tokenizer.convert_tokens_to_ids("<|im_end|>"),
                loaded.tokenizer.eos_token_id,
            ],
            "repetition_penalty": 1.0,
        },
        "preprocessor_config.json": {
            "min_pixels": 3136,
            "max_pixels": 40 * FOUR,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
        "chat_template.json": {"chat_template": TEMPLATE},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def load(folder, **options):
    options = {"precision": "fp32", "device": "cpu", "selector": "none", **options}
    return SceneEngine.load(str(folder), **options)


@pytest.fixture(scope="module")
def stock(folder):
    """The same checkpoint, loaded by transformers alone."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    assert float(model.model.language_model.layers[0].self_attn.v_proj.bias.detach().std()) > 0.5
    return model.eval()


def reference_of(engine, model):
    class Reference(Qwen25VL):
        def text(self, question):
            return self.loaded.prompt(None).text(question)

    reference = Reference(engine.loaded)
    reference.model = model
    return reference


@pytest.mark.parametrize("shape", sorted(IMAGES))
def test_a_published_checkpoint_answers_as_generate_does(folder, stock, shape):
    engine = load(folder)
    reference = reference_of(engine, stock)
    scene = engine.see(IMAGES[shape])
    wanted = reference.generate(IMAGES[shape], "what is it?", 8)
    assert engine.ask(scene, "what is it?", max_new_tokens=8).token_ids == wanted
    bare = copy.deepcopy(stock)
    for name, weight in bare.model.language_model.named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()
    without = reference_of(engine, bare).generate(IMAGES[shape], "what is it?", 8)
    assert without != wanted  # so the biases matter


def test_settings_come_from_the_folder(folder):
    loaded = load(folder).loaded
    assert loaded.prompt(None).text("hm?") == (
        "<|im_start|>user:<|vision_start|><|image_pad|><|vision_end|>hm?<|im_end|>"
        "<|im_start|>assistant:"
    )
    config = loaded.model.config
    assert loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight
    assert config.text_config.rope_parameters["mrope_section"] == [2, 3, 3]
    assert loaded.tokenizer.convert_tokens_to_ids("<|im_end|>") in loaded.end_token_ids
    assert loaded.images.processor.size["longest_edge"] == 40 * FOUR
    assert load(folder).see(np.zeros((480, 640, 3), np.uint8)).tokens_total <= 40
    # A bound beyond the checkpoint's own other one takes it along.
    far = load(folder, min_pixels=50 * FOUR).loaded.images.processor.size
    assert (far["shortest_edge"], far["longest_edge"]) == (50 * FOUR, 50 * FOUR)
    near = load(folder, max_pixels=3 * FOUR).loaded.images.processor.size
    assert (near["shortest_edge"], near["longest_edge"]) == (3 * FOUR, 3 * FOUR)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_biases_are_there_in_every_precision(folder, stock, precision):
    engine = load(folder, precision=precision, visual_tokens=12, selector="svd")
    layers = zip(
        engine.loaded.model.model.language_model.layers,
        stock.model.language_model.layers,
        strict=True,
    )
    nothing = torch.zeros(3, 64, dtype=engine.loaded.dtype)
    with torch.inference_mode():
        for ours, theirs in layers:
            for name in ("q_proj", "k_proj", "v_proj"):
                bias = getattr(theirs.self_attn, name).bias
                made = getattr(ours.self_attn, name)(nothing)
                torch.testing.assert_close(made.float(), bias.expand(3, -1), atol=0.02, rtol=0.01)
    scene = engine.see(IMAGES["wide"])
    assert engine.ask(scene, "what is it?", max_new_tokens=4).answer_tokens > 0


def test_the_random_models_prompt_is_the_published_one():
    prompt = family_of(TINY).load(
        TINY, precision="fp32", device="cpu", seed=0, options=ModelOptions()
    )
    asked = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>is it red?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    system = "<|im_start|>system\n{}<|im_end|>\n"
    default = system.format("You are a helpful assistant.")
    assert prompt.prompt(None).text("is it red?") == default + asked
    assert prompt.prompt("Be short.").text("is it red?") == system.format("Be short.") + asked


def test_fours_are_in_the_order_of_visual_tokens(folder):
    engine = load(folder)
    visual = engine.loaded.model.model.visual
    for image in IMAGES.values():
        features = engine.features(image)
        with torch.inference_mode():
            merged = visual.merger(features.patches.reshape(-1, 32))
        torch.testing.assert_close(merged, features.projected)
    rows, columns = features.grid
    order = engine.loaded.encoder().raster(torch.tensor([[1, 2 * rows, 2 * columns]]))
    assert order.tolist() != list(range(rows * columns))  # so there was something to undo


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"use_sliding_window": True},
            r"looks back through a sliding window: .* all that was read",
        ),
        (
            {"text_config": {"model_type": "qwen2_5_vl_text", "use_sliding_window": True}},
            r"looks back through a sliding window",
        ),
        ({"text_config": {"model_type": "qwen3"}}, r"with the language model 'qwen3'"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantized already: take the original"),
    ],
)
def test_what_can_not_run_is_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        family_of_config("some/model", {"model_type": "qwen2_5_vl", **changes})


@pytest.mark.parametrize("text", ["qwen2_5_vl_text", "qwen2_5_vl"])
def test_older_names_of_the_language_model_are_known(text):
    config = {"model_type": "qwen2_5_vl", "text_config": {"model_type": text}}
    assert family_of_config("some/model", config).model_type == "qwen2_5_vl"
