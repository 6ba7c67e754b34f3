# SPDX-License-Identifier: Apache-2.0
"""From names to weights: the hub's layout, what is quantized, and each way that it can go wrong."""

import json
import logging
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from svd_vlm_ros.cpu import computes_bfloat16
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models import files
from svd_vlm_ros.models.language.decoder import MAX_CONTEXT
from svd_vlm_ros.models.llava.loading import COMPONENTS, load_llava
from svd_vlm_ros.models.llava.random import random_config
from svd_vlm_ros.models.loading import resolve_device
from svd_vlm_ros.models.weights import precision

# Of activations beside quantized weights: as the CPU's class has it.
COMPUTES = torch.bfloat16 if computes_bfloat16() else torch.float32
DECODER_LINEARS = 7  # q, k, v, o, gate, up, down


@pytest.fixture
def copy(small_checkpoint, tmp_path):
    """A checkpoint that a test may spoil."""
    return shutil.copytree(small_checkpoint, tmp_path / "copy")


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_in_the_layout_of_the_hub_is_loaded(checkpoint):
    names = {file.name for file in checkpoint.iterdir()}
    assert names >= {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
        *("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"),
    }
    stored = load_file(checkpoint / "model.safetensors")
    # The names that llava-hf/llava-1.5-7b-hf has had since transformers 4.
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in stored
    assert "vision_tower.pre_layrnorm.weight" in stored or (
        "vision_tower.vision_model.pre_layrnorm.weight" in stored
    )
    loaded = load_llava(str(checkpoint), precision="fp32", device="cpu")
    weight = loaded.model.model.language_model.layers[0].self_attn.q_proj.weight
    assert torch.equal(weight, stored["language_model.model.layers.0.self_attn.q_proj.weight"])
    assert loaded.end_token_ids == {2}
    assert loaded.image_token_id == loaded.model.config.image_token_index
    assert not loaded.random_weights
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())


def test_the_tower_of_older_checkpoints_is_loaded(copy):
    """Those on the hub have `vision_tower.vision_model.`, which transformers 5 renames."""
    stored = load_file(copy / "model.safetensors")
    older = {
        name.replace("vision_tower.", "vision_tower.vision_model.")
        if not name.startswith("vision_tower.vision_model.")
        else name: weight
        for name, weight in stored.items()
    }
    save_file(older, copy / "model.safetensors", metadata={"format": "pt"})
    for chosen in ("fp32", "int4"):
        loaded = load_llava(str(copy), precision=chosen, device="cpu")
        found = loaded.model.model.vision_tower.pre_layrnorm.weight
        name = "vision_tower.vision_model.pre_layrnorm.weight"
        assert torch.equal(found, older[name].to(found.dtype))


@pytest.mark.parametrize("source", ["files", "random"])
@pytest.mark.parametrize("chosen", precision.PRECISIONS)
def test_only_the_decoder_is_quantized(chosen, source, small_checkpoint):
    name = str(small_checkpoint) if source == "files" else "random:tiny"
    model = load_llava(name, precision=chosen, device="cpu").model
    layers = DECODER_LINEARS * model.config.text_config.num_hidden_layers
    vision = 6 * model.config.vision_config.num_hidden_layers
    quantized = layers if chosen in ("int8", "int4") else 0
    assert precision.quantized_layers(model, COMPONENTS) == {
        "vision_tower": (0, vision),
        "multi_modal_projector": (0, 2),
        "language_model": (quantized, layers),
        "lm_head": (0, 1),
    }
    kind = {"int8": "Linear8bitLt", "int4": "Linear4bit"}.get(chosen, "Linear")
    linear = model.model.language_model.layers[0].mlp.up_proj
    assert kind in {cls.__name__ for cls in type(linear).__mro__[:2]}
    if chosen == "int8":
        assert linear.state.threshold == 0.0
        assert linear.weight.dtype == torch.int8
    elif chosen == "int4":
        assert linear.weight.quant_type == "nf4"
        assert linear.compute_dtype == COMPUTES
        assert linear.weight.quant_state.nested
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    assert model.lm_head.weight.dtype == dtypes.get(chosen, COMPUTES)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("chosen", ["int8", "int4"])
def test_both_ways_to_quantize_give_the_same_weights(chosen, tmp_path):
    """`from_pretrained` with its configuration, and our own for models built layer by layer."""
    started = {torch.float32: "fp32", torch.bfloat16: "bf16"}[COMPUTES]
    built = load_llava("random:tiny", precision=started, device="cpu")
    built.model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        shutil.copy(files.scout_folder() / name, tmp_path)
    ours = load_llava("random:tiny", precision=chosen, device="cpu").model
    theirs = load_llava(str(tmp_path), precision=chosen, device="cpu").model
    assert precision.weight_bytes(ours) == precision.weight_bytes(theirs)
    a = ours.model.language_model.layers[1].self_attn.o_proj
    b = theirs.model.language_model.layers[1].self_attn.o_proj
    assert torch.equal(a.weight.data, b.weight.data)
    if chosen == "int4":
        assert torch.equal(a.weight.quant_state.code, b.weight.quant_state.code)
        assert torch.equal(a.weight.quant_state.absmax, b.weight.quant_state.absmax)
    rows = torch.randn(3, a.in_features, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(a(rows.to(COMPUTES)), b(rows.to(COMPUTES)))


def test_weight_bytes_are_those_of_the_numbers():
    sizes = {}
    for chosen in precision.PRECISIONS:
        model = load_llava("random:tiny", precision=chosen, device="cpu").model
        sizes[chosen] = precision.weight_bytes(model)
    decoder = 2 * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 256)  # weights of the linear layers
    assert sizes["fp32"] - sizes["bf16"] == pytest.approx(sizes["fp32"] / 2, rel=0.01)
    assert sizes["bf16"] == sizes["fp16"]
    started = {torch.float32: "fp32", torch.bfloat16: "bf16"}[
        COMPUTES
    ]  # what quantized ones come from
    stored = COMPUTES.itemsize
    assert sizes[started] - sizes["int8"] == pytest.approx((stored - 1) * decoder, rel=0.05)
    assert sizes[started] - sizes["int4"] == pytest.approx((stored - 0.5) * decoder, rel=0.1)


def test_a_count_that_is_wrong_is_noticed():
    model = load_llava("random:tiny", precision="bf16", device="cpu").model
    with pytest.raises(RuntimeError, match="0 of 14 linear layers of language_model"):
        precision.check_quantized(model, "int8", COMPONENTS)


def test_int8_is_quiet(caplog):
    loaded = load_llava("random:tiny", precision="int8", device="cpu")
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        loaded.model.model.language_model(inputs_embeds=torch.zeros(1, 3, 128, dtype=COMPUTES))
    assert caplog.text == ""


def test_bitsandbytes_is_imported_without_its_network(tmp_path, monkeypatch):
    """If the package `kernels` is installed, bitsandbytes would fetch code from a hub."""
    for name in ("bitsandbytes", "bitsandbytes.autograd._functions"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "kernels.py").write_text("")
    (tmp_path / "bitsandbytes.py").write_text(
        "try:\n    import kernels\nexcept ImportError:\n    fetched = False\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import kernels

    precision.import_bitsandbytes()
    assert sys.modules["bitsandbytes"].fetched is False
    assert sys.modules["kernels"] is kernels


@pytest.mark.parametrize("missing", ["bitsandbytes", "accelerate"])
def test_quantization_without_its_library_is_named(monkeypatch, missing):
    find = precision.importlib.util.find_spec
    monkeypatch.setattr(
        precision.importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    for chosen in ("int8", "int4"):
        with pytest.raises(UserError, match=f"{chosen} needs {missing}"):
            load_llava("random:tiny", precision=chosen)
    load_llava("random:tiny", precision="bf16")


def test_compute_dtypes():
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert precision.compute_dtype("fp32", cuda) == torch.float32
    assert precision.compute_dtype("fp16", cpu) == torch.float16
    assert precision.compute_dtype("int8", cuda) == torch.float16
    assert precision.compute_dtype("bf16", cpu) == torch.bfloat16
    for chosen in ("int8", "int4"):
        assert precision.compute_dtype(chosen, cpu) == COMPUTES


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="no GPU"):
        resolve_device("cuda")
    for device in ("tpu", "mps", "", "cuda:x"):
        with pytest.raises(UserError, match="no device"):
            resolve_device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    with pytest.raises(UserError, match="no cuda:1: this machine has 1 GPU"):
        resolve_device("cuda:1")


def test_a_model_that_is_not_here_is_named(tmp_path, monkeypatch):
    for name in ("llava-hf/llava-1.5-7b-hf", "no such/name at all", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match=r"is not on this machine: .*svd-vlm download.*'scout'"):
            load_llava(name)
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_llava(str(tmp_path))


def test_a_model_in_the_cache_of_the_hub_is_found(small_checkpoint, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--someone--small-llava" / "snapshots" / ("0" * 40)
    shutil.copytree(small_checkpoint, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert files.find_folder("someone/small-llava") == snapshot
    load_llava("someone/small-llava", precision="fp32", device="cpu")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"lacks 1 of 1 weight files.*svd-vlm download someone/small"
    ):
        load_llava("someone/small-llava")


def test_weights_in_several_files(copy):
    stored = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    halves = sorted(stored)[:40], sorted(stored)[40:]
    index = {}
    for number, names in enumerate(halves, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({n: stored[n] for n in names}, copy / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    content = {"metadata": {}, "weight_map": index}
    (copy / "model.safetensors.index.json").write_text(json.dumps(content))
    for chosen in ("fp32", "int4"):
        load_llava(str(copy), precision=chosen, device="cpu")
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="lacks 1 of 2 weight files"):
        load_llava(str(copy))


def test_pickled_weights_are_never_read(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled"):
        load_llava(str(copy))


@pytest.mark.parametrize("chosen", ["fp32", "int8"])
def test_weights_that_are_missing_are_not_made_up(copy, chosen):
    stored = load_file(copy / "model.safetensors")
    gone = "language_model.model.layers.1.mlp.up_proj.weight"
    del stored[gone]
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights of .*layers\.1\.mlp\.up_proj\.weight"):
        load_llava(str(copy), precision=chosen)


def test_damaged_weights_are_named(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_llava(str(copy))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "qwen2_vl"}, "is 'qwen2_vl'"),
        ({"model_type": "llava_next"}, "not LLaVA-1.5"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "siglip"),
        ({"text_config": {"model_type": "mistral"}}, "mistral"),
        ({"vision_feature_layer": [-2, -5]}, "several vision layers"),
        ({"vision_feature_select_strategy": "full"}, "CLS"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantized already"),
        ({"image_token_index": 7}, "do not belong together"),
    ],
)
def test_other_architectures_are_refused(copy, changes, sentence):
    edit(copy, "config.json", **changes)
    with pytest.raises(UserError, match=sentence):
        load_llava(str(copy))


def test_a_context_is_no_longer_than_the_positions_that_are_held(copy):
    """Else a prompt that is let through would ask for a position that the decoder does not have."""
    text = json.loads((copy / "config.json").read_text())["text_config"]
    edit(copy, "config.json", text_config={**text, "max_position_embeddings": 2 * MAX_CONTEXT})
    loaded = load_llava(str(copy), precision="fp32", device="cpu")
    assert loaded.context == len(loaded.language_model().decoder.cosines) == MAX_CONTEXT
    edit(copy, "config.json", text_config={**text, "max_position_embeddings": 1000})
    loaded = load_llava(str(copy), precision="fp32", device="cpu")
    assert loaded.context == len(loaded.language_model().decoder.cosines) == 1000


def test_a_broken_config_is_named(copy):
    (copy / "config.json").write_text("[]")
    with pytest.raises(UserError, match="no JSON object"):
        load_llava(str(copy))
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        load_llava(str(copy))


def test_widths_that_int4_can_not_take_are_named():
    config = random_config("random:tiny").text_config
    precision.check_widths(config, "int4")
    config.intermediate_size = 100
    precision.check_widths(config, "int8")
    with pytest.raises(UserError, match="multiples of 64"):
        precision.check_widths(config, "int4")


def test_the_random_architecture_has_the_sizes_of_llava():
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(random_config("random:llava-1.5-7b"))

    def count(part):
        return sum(weight.numel() for weight in part.parameters())

    assert count(model.model.vision_tower) == 303_507_456
    assert count(model.model.multi_modal_projector) == 20_979_712
    assert count(model) == 7_063_427_072
    assert model.config.image_seq_length == 576


def test_importing_the_package_imports_no_torch():
    program = (
        "import sys, svd_vlm_ros.models, svd_vlm_ros.models.llava, svd_vlm_ros.models.files\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
