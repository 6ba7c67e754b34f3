# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 2, number by number, and the true count against the modules themselves."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from svd_vlm_ros.cli.main import app
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.llava.random import random_config
from svd_vlm_ros.planning.configurations import sizes_from_config
from svd_vlm_ros.planning.flops import PAPER_TABLE, PAPER_TOKENS, paper_work, true_work
from svd_vlm_ros.planning.known import CONFIGURATIONS, NAMES, find_sizes


def unit(printed: str) -> float:
    """One unit of the last digit that is significant: zeros that fill up a column are not."""
    digits = printed.partition(".")[2].rstrip("0")
    return 10.0 ** -len(digits)


@pytest.mark.parametrize("tokens", PAPER_TABLE)
def test_table_2_of_the_paper(tokens):
    model = find_sizes("llava-1.5-7b")
    work = paper_work(model, tokens)
    ours = (
        work.vision / 1e9,
        work.projector / 1e9,
        work.language / 1e12,
        work.total / 1e12,
        100 * (1 - work.total / paper_work(model, 576).total),
    )
    for counted, printed in zip(ours, PAPER_TABLE[tokens], strict=True):
        assert abs(counted - float(printed)) <= unit(printed), (counted, printed)


@pytest.mark.parametrize("name", ["random:llava-1.5-7b", "random:tiny"])
def test_weights_are_those_of_transformers(name):
    from transformers import LlavaForConditionalGeneration

    config = random_config(name)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    sizes = sizes_from_config(name, config.to_dict())
    assert sizes.weights == sum(weight.numel() for weight in model.parameters())
    decoder = model.model.language_model
    linears = [m for m in decoder.modules() if isinstance(m, nn.Linear)]
    assert sizes.decoder.linear_weights == sum(m.weight.numel() for m in linears)
    assert sizes.decoder.linear_rows == sum(m.out_features for m in linears)
    assert sizes.tower.weights == sum(w.numel() for w in model.model.vision_tower.parameters())
    assert sizes.tower.layers_used == config.vision_config.num_hidden_layers - 1


def test_the_true_count_is_what_the_modules_multiply():
    """Multiply-accumulates of every linear layer and convolution that a prefill runs through."""
    from transformers import LlavaForConditionalGeneration

    config = random_config("random:tiny")
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    counted = {"linear": 0}

    def count(module, inputs, output):
        if isinstance(module, nn.Linear):
            counted["linear"] += output.numel() * module.in_features
        elif isinstance(module, nn.Conv2d):
            counted["linear"] += output.numel() * module.weight[0].numel()

    for module in model.modules():
        module.register_forward_hook(count)
    kept, text = 16, 50
    tower, language = model.model.vision_tower, model.model.language_model
    hidden = tower.pre_layrnorm(tower.embeddings(torch.empty(1, 3, 336, 336, device="meta")))
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, None)
    model.model.multi_modal_projector(hidden[:, :kept])
    rows = torch.empty(1, kept + text, config.text_config.hidden_size, device="meta")
    model.lm_head(language(inputs_embeds=rows).last_hidden_state[:, -1:])

    sizes = sizes_from_config("tiny", config.to_dict())
    tower, decoder = sizes.tower, sizes.decoder
    attention = tower.layers_used * 2 * 577**2 * tower.hidden
    attention += decoder.layers * 2 * (kept + text) ** 2 * decoder.heads * decoder.head_size
    assert true_work(sizes, kept, text).total == counted["linear"] + attention


def test_the_true_figure_of_llava():
    work = true_work(find_sizes("llava-hf/llava-1.5-7b-hf"), 576, 50)
    assert (work.language + work.head) / 1e12 == pytest.approx(4.16, abs=0.005)


def test_a_sparse_config_like_those_on_the_hub(tmp_path):
    config = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "vocab_size": 32064},
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
        "vision_feature_layer": -2,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_sizes(str(tmp_path)).weights == 7_063_427_072
    assert find_sizes("llava-1.5-13b").weights == pytest.approx(13.35e9, rel=0.002)


def test_what_can_not_be_counted_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no model 'gpt' to plan: take one of llava-1\.5-7b"):
        find_sizes("gpt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="model_type is 'None', and those known are llava, "):
        find_sizes(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        find_sizes(str(tmp_path))
    for tokens in (0, 577):
        with pytest.raises(UserError, match="1 to 576 visual tokens"):
            paper_work(find_sizes("scout"), tokens)


def test_the_command():
    ran = CliRunner().invoke(app, ["flops", "--json", "--visual-tokens", "576,16"])
    record = json.loads(ran.stdout)
    assert [row["visual_tokens"] for row in record["rows"]] == [576, 16]
    assert record["rows"][1]["paper"]["reduction_percent"] == pytest.approx(84.86, abs=0.01)
    assert record["rows"][1]["true"]["total"] == pytest.approx(0.61e12, rel=0.01)
    shown = CliRunner().invoke(app, ["flops", "--model", "scout"]).stdout
    assert "As the paper counts" in shown
    assert "As computed" in shown
    assert CliRunner().invoke(app, ["flops", "--visual-tokens", "many"]).exit_code == 2
    assert CliRunner().invoke(app, ["flops", "--image", "many"]).exit_code == 2
    assert CliRunner().invoke(app, ["flops", "--model", "gpt"]).exit_code == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_command_counts_every_known_model(name):
    ran = CliRunner().invoke(app, ["flops", "--json", "--model", name, "--image", "1280x720"])
    record = json.loads(ran.stdout)
    tokens = [row["visual_tokens"] for row in record["rows"]]
    assert tokens == [record["tokens"], *(kept for kept in PAPER_TOKENS if kept < tokens[0])]
    assert record["rows"][0]["true"]["reduction_percent"] == 0
    assert record["patches"] >= record["tokens"] > 0
    for row in record["rows"]:  # whatever is kept
        assert row["true"]["vision"] == record["rows"][0]["true"]["vision"]


def test_a_model_on_this_machine_need_not_be_known(tmp_path, monkeypatch):
    from svd_vlm_ros.models import files

    config = json.dumps({**CONFIGURATIONS["Qwen/Qwen3-VL-4B-Instruct"]})
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_text("")
    monkeypatch.setattr(files, "_cached", {"me/my-robot": tmp_path}.get)
    ran = CliRunner().invoke(app, ["flops", "--json", "--model", "me/my-robot"])
    assert json.loads(ran.stdout)["tokens"] == 300
    assert CliRunner().invoke(app, ["flops", "--model", "random:tiny"]).exit_code == 1
