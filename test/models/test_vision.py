# SPDX-License-Identifier: Apache-2.0
"""What the vision tower gives selectors, against transformers with eager attention."""

import numpy as np
import pytest
import torch
from checkpoints import SHAPES, make_checkpoint
from transformers import LlavaForConditionalGeneration

from svd_vlm_ros.models.llava.loading import load_llava
from svd_vlm_ros.models.llava.preprocess import preprocess
from svd_vlm_ros.models.llava.vision import VisionTower
from svd_vlm_ros.models.projector import Projector
from svd_vlm_ros.selection import Budget, Selection, VisualFeatures, make_selector
from svd_vlm_ros.selection.tokens import token_rows


@pytest.fixture(scope="module", params=list(SHAPES))
def folder(request, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tower"), request.param)


def test_class_attention_and_keys_are_those_of_eager_attention(folder):
    loaded = load_llava(str(folder), precision="fp32", device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    prepared = preprocess(image, loaded.images, "pad")
    tower = VisionTower(loaded.model)
    with torch.inference_mode():
        seen = tower(prepared, frozenset({"class_attention", "keys", "projected"}))
        plain = tower(prepared)

    stock = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    vision = stock.model.vision_tower
    layer = vision.encoder.layers[-2]
    keys = []
    hook = layer.self_attn.k_proj.register_forward_hook(lambda *args: keys.append(args[2]))
    with torch.inference_mode():
        out = vision(prepared.pixels, output_attentions=True, output_hidden_states=True)
    hook.remove()
    hidden = out.hidden_states[-2][0]
    weights = out.attentions[-2][0]  # [heads, 1 + N, 1 + N]
    heads = weights.shape[0]
    by_head = keys[0][0].view(len(hidden), heads, -1)

    close = {"atol": 2e-6, "rtol": 2e-5}
    torch.testing.assert_close(seen.class_attention, weights[:, 0, 1:], **close)
    assert seen.class_attention.dtype == torch.float32
    torch.testing.assert_close(seen.class_token, hidden[0], **close)
    torch.testing.assert_close(seen.patches, hidden[1:], **close)
    torch.testing.assert_close(seen.keys, by_head[1:].mean(dim=1), **close)
    torch.testing.assert_close(seen.class_key, by_head[0].mean(dim=0), **close)
    with torch.inference_mode():
        projected = stock.model.multi_modal_projector(hidden[1:])
    torch.testing.assert_close(seen.projected, projected, **close)

    # What is captured changes nothing, and what is not asked for is not there.
    assert torch.equal(plain.patches, seen.patches)
    for name in ("class_attention", "class_token", "keys", "class_key", "projected", "encoder"):
        assert getattr(plain, name) is None


def test_merged_rows_are_weighted_sums_of_cls_and_patches():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(4, 3, generator=generator).half()
    cls = torch.randn(3, generator=generator).half()
    features = VisualFeatures(patches, (2, 2), class_token=cls)
    dense = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0.5, 0, 0.5], [0, 1, 0, 1, 0]])
    chosen = Selection(torch.tensor([0, 1, 2]), torch.zeros(4), dense.to_sparse())
    rows = token_rows(features, chosen)
    wanted = torch.stack([cls, (patches[1] + patches[3]) / 2, patches[0] + patches[2]])
    torch.testing.assert_close(rows, wanted, atol=2e-3, rtol=2e-3)
    assert rows.dtype == torch.float16
    with pytest.raises(ValueError, match="class token"):
        token_rows(VisualFeatures(patches, (2, 2)), chosen)
    made = Selection(torch.tensor([2]), torch.zeros(4), features=torch.ones(1, 3).half())
    assert torch.equal(token_rows(features, made), torch.ones(1, 3).half())


def test_the_projector_reuses_what_is_projected_already(folder):
    loaded = load_llava(str(folder), precision="fp32", device="cpu")
    projector = Projector(loaded.model.model.multi_modal_projector)
    image = np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)
    prepared = preprocess(image, loaded.images, "pad")
    tower = VisionTower(loaded.model)
    with torch.inference_mode():
        plain, projected = tower(prepared), tower(prepared, frozenset({"projected"}))
        chosen = Selection(torch.tensor([1, 5]), torch.zeros(len(plain)))
        torch.testing.assert_close(projector(plain, chosen).rows, projector(projected, chosen).rows)
        assert torch.equal(projector(projected, chosen).rows, projected.projected[[1, 5]])


def test_tome_runs_the_layers_in_place_of_the_tower(folder):
    loaded = load_llava(str(folder), precision="fp32", device="cpu")
    image = np.random.default_rng(2).integers(0, 255, (40, 80, 3), np.uint8)  # padded
    prepared = preprocess(image, loaded.images, "pad")
    tower, select = VisionTower(loaded.model), make_selector("tome")
    with torch.inference_mode():
        plain = tower(prepared)
        opened = tower(prepared, select.needs)
        assert torch.equal(opened.patches, plain.patches)
        for count in (1, 16, 21, 10_000):
            merged = tower(prepared, select.needs, select, Budget(count))
            chosen, later = select(merged, Budget(count)), select(opened, Budget(count))
            valid = int(plain.valid.sum())
            assert len(chosen) == min(count, valid)
            assert torch.equal(chosen.indices, later.indices)
            torch.testing.assert_close(token_rows(merged, chosen), token_rows(opened, later))
            assert bool(plain.valid[chosen.indices].all())
        torch.testing.assert_close(merged.patches, plain.patches, atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="encoded for"):
            select(merged, Budget(3))
