# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as they come: bfloat16, in several files, damaged; and families that can't be."""

import json
import shutil

import numpy as np
import pytest
import torch
from checkpoints import load_stock
from safetensors.torch import load_file, save_file

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export import export_onnx
from svd_vlm_ros.export.sessions import Sessions


def sharded(source, folder, dtype):
    """A copy of a checkpoint in three files, its weights in another dtype."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for part in range(3):
        file = f"model-{part + 1:05}-of-00003.safetensors"
        held = {name: weights[name].to(dtype) for name in sorted(weights)[part::3]}
        save_file(held, folder / file)
        places |= dict.fromkeys(held, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_a_checkpoint_of_16_bits_in_several_files(small_checkpoint, tmp_path, dtype):
    folder = sharded(small_checkpoint, tmp_path / "checkpoint", dtype)
    graphs = Sessions(export_onnx(str(folder), tmp_path / "out", precision="fp32"))
    stock = load_stock(folder)
    assert np.array_equal(
        graphs.manifest.embeddings(), stock.get_input_embeddings().weight.detach().numpy()
    )
    embeds = np.random.default_rng(0).normal(size=(11, graphs.manifest.sizes["hidden"]))
    with torch.inference_mode():
        hidden = stock.model.language_model(
            inputs_embeds=torch.from_numpy(embeds).float()[None], use_cache=False
        )
        wanted = stock.lm_head(hidden.last_hidden_state)[0].numpy()
    found, _ = graphs.read(embeds, np.arange(11), graphs.empty(), list(range(11)))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_numbers_beyond_16_bits_are_not_rounded_to_infinity(small_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(each for each in weights if each.endswith("layers.1.mlp.up_proj.weight"))
    weights[name][0, 0] = 1e6
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"up_proj\.weight does not fit into 16 bits"):
        export_onnx(str(folder), tmp_path / "out", precision="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_damaged_weights_are_named(small_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors are damaged \(it is truncated\)"):
        export_onnx(str(folder), tmp_path / "out")
    held = load_file(small_checkpoint / "model.safetensors")
    lost = next(each for each in held if each.endswith("layers.1.self_attn.v_proj.weight"))
    del held[lost]
    save_file(held, weights)
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.v_proj\.weight .* is missing"):
        export_onnx(str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_head_is_not_replaced_by_the_embeddings(small_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    held = load_file(small_checkpoint / "model.safetensors")
    held = {name: each for name, each in held.items() if "lm_head" not in name}
    save_file(held, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.weight .* is missing"):
        export_onnx(str(folder), tmp_path / "out")


def test_families_that_can_t_be_exported_say_so(tmp_path):
    from svd_vlm_ros import models

    names = [
        models.registry._family(each).random_models[0]
        for each in models.model_types()
        if each != "llava"
    ]
    assert names
    for name in names:
        kind = models.family_of(name).model_type
        with pytest.raises(UserError, match=f"'{kind}' can't be exported yet: llava can"):
            export_onnx(name, tmp_path / "out")


def test_a_model_that_is_not_here_is_refused_as_everywhere(tmp_path):
    with pytest.raises(UserError, match="not on this machine"):
        export_onnx("somebody/some-model", tmp_path / "out")
