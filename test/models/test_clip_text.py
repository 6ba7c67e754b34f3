# SPDX-License-Identifier: Apache-2.0
"""The question beside the patches: a small CLIP written to a folder, against CLIPModel itself."""

import json

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.llava.clip_text import ClipText, load_relevance
from svd_vlm_ros.selection import VisualFeatures, make_selector

CPU = torch.device("cpu")
LETTERS = "abcdefghijklmnopqrstuvwxyz?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of width 16 with random weights, whose tokens are letters."""
    folder = tmp_path_factory.mktemp("clip")
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[])
    tokenizer.save_pretrained(folder)
    config = CLIPConfig(
        text_config=CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=vocab["<|startoftext|>"],
            eos_token_id=vocab["<|endoftext|>"],
            pad_token_id=vocab["<|endoftext|>"],
        ).to_dict(),
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ).to_dict(),
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    return folder


def features(width=16, projected=None):
    generator = torch.Generator().manual_seed(1)
    return VisualFeatures(torch.randn(6, width, generator=generator), (2, 3), projected=projected)


def test_patches_and_question_lie_where_clip_puts_them(folder):
    seen = features()
    compare = load_relevance(make_selector("trim", clip=str(folder)), CPU, torch.float32)
    common = compare(seen, "is it red?", torch.zeros(1, 4))
    stock = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        text = stock.get_text_features(**tokenizer("is it red?", return_tensors="pt"))
        patches = stock.visual_projection(stock.vision_model.post_layernorm(seen.patches))
    text = text.pooler_output
    torch.testing.assert_close(common.text, text / text.norm(dim=1, keepdim=True))
    torch.testing.assert_close(common.patches, patches / patches.norm(dim=1, keepdim=True))
    assert common.inverted
    # In CLIP's space the least similar patch is the most relevant one.
    similarity = (common.patches @ common.text.T)[:, 0]
    assert int(common.relevance().argmax()) == int(similarity.argmin())


def test_a_long_question_is_cut(folder):
    clip = ClipText.load(str(folder), CPU, torch.float32)
    long, longer = clip(features(), "abcdefghij" * 3), clip(features(), "abcdefghij" * 9)
    assert torch.equal(long.text, longer.text)


def test_words_need_no_clip():
    generator = torch.Generator().manual_seed(2)
    projected = torch.randn(6, 5, generator=generator)
    asked = torch.randn(3, 5, generator=generator)
    selector = make_selector("cdpruner", relevance="words")
    assert selector.needs == {"image_text", "projected"}
    common = load_relevance(selector, CPU, torch.float32)(features(projected=projected), "", asked)
    for patch in range(6):
        cosines = [
            float(projected[patch] @ word / projected[patch].norm() / word.norm()) for word in asked
        ]
        assert float(common.relevance()[patch]) == pytest.approx(sum(cosines) / 3, abs=1e-6)


def test_what_can_not_be_compared_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="svd-vlm download nobody/clip"):
        load_relevance(make_selector("trim", clip="nobody/clip"), CPU, torch.float32)
    with pytest.raises(UserError, match="relevance='words'"):
        load_relevance(make_selector("trim", clip=str(tmp_path)), CPU, torch.float32)
    with pytest.raises(UserError, match="not 'text'"):
        make_selector("trim", relevance="text")
    clip = ClipText.load(str(folder), CPU, torch.float32)
    with pytest.raises(UserError, match="width 16, this model one of 20"):
        clip(features(20), "red?")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llava"}))
    (other / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is 'llava', not a CLIP"):
        ClipText.load(str(other), CPU, torch.float32)
    (other / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match="can't be read"):
        ClipText.load(str(other), CPU, torch.float32)
