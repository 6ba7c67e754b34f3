# SPDX-License-Identifier: Apache-2.0
"""The exported graphs compute what torch computes: tower, projector, decoder."""

import numpy as np
import pytest
import torch

from svd_vlm_ros import models
from svd_vlm_ros.export.sessions import Sessions

NEEDS = frozenset({"class_attention", "keys"})
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (120, 200, 3), np.uint8)
# The same sums in another order.
TIGHT = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=["scout", "random:tiny", "checkpoint"])
def pair(request, exported):
    """An export in fp32 and the torch model."""
    name = request.param
    if name == "checkpoint":  # two shapes: one with grouped heads
        name = str(request.getfixturevalue("small_checkpoint"))
    loaded = models.load(name, precision="fp32", device="cpu")
    return Sessions(exported(name)), loaded


def features(loaded):
    return loaded.encoder()(loaded.images(IMAGE, "pad"), NEEDS)


def stock_logits(loaded, embeds, positions):
    """Logits [n, vocabulary] of all rows, by transformers' own forward pass."""
    language = loaded.model.model.language_model
    with torch.inference_mode():
        hidden = language(
            inputs_embeds=torch.from_numpy(embeds)[None],
            position_ids=torch.from_numpy(positions)[None],
            # One row, all of it: given, since transformers takes gaps in positions for packing.
            attention_mask=causal(len(embeds)),
            use_cache=False,
        ).last_hidden_state
        return loaded.model.lm_head(hidden)[0].numpy()


def causal(count):
    return torch.full((count, count), -torch.inf).triu(1)[None, None]


def test_the_tower_gives_the_features_of_torch(pair):
    graphs, loaded = pair
    with torch.inference_mode():
        wanted = features(loaded)
    pixels = loaded.images(IMAGE, "pad").pixels.numpy()
    found = graphs.run("vision.onnx", {"pixel_values": pixels})
    assert set(found) == {"patches", "class_token", "class_attention", "keys", "class_key"}
    for name, value in found.items():
        torch_value = getattr(wanted, name).numpy()
        assert value.shape == torch_value.shape, name
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, torch_value, **TIGHT, err_msg=name)


@pytest.mark.parametrize("count", [1, 5, 49])
def test_the_projector_projects_any_number_of_rows(pair, count):
    graphs, loaded = pair
    rows = RNG.normal(size=(count, graphs.manifest.sizes["vision_width"])).astype(np.float32)
    with torch.inference_mode():
        wanted = loaded.model.model.multi_modal_projector(torch.from_numpy(rows)).numpy()
    found = graphs.run("projector.onnx", {"rows": rows})["tokens"]
    np.testing.assert_allclose(found, wanted, **TIGHT)


@pytest.mark.parametrize("positions", ["contiguous", "gaps"])
def test_the_decoder_reads_a_prompt_a_question_behind_it_and_single_tokens(pair, positions):
    graphs, loaded = pair
    sizes = graphs.manifest.sizes
    embeds = RNG.normal(size=(23, sizes["hidden"])).astype(np.float32) * 0.5
    places = np.arange(23) if positions == "contiguous" else np.arange(23) * 3 + 7
    wanted = stock_logits(loaded, embeds, places)
    cache, done = graphs.empty(), 0
    for count in (12, 9, 1, 1):
        part = slice(done, done + count)
        rows = sorted({0, count // 2, count - 1})
        logits, cache = graphs.read(embeds[part], places[part], cache, rows)
        done += count
        np.testing.assert_allclose(logits, wanted[part][rows], **TIGHT)
        assert cache[0].shape == (1, sizes["kv_heads"], done, sizes["head_dim"])


def test_a_prefix_serves_several_questions(pair):
    """The graph is a pure function: a cache that was used is what it was."""
    graphs, loaded = pair
    prefix, one, two = (
        RNG.normal(size=(n, graphs.manifest.sizes["hidden"])).astype(np.float32) for n in (7, 3, 4)
    )
    _, cache = graphs.read(prefix, np.arange(7), graphs.empty(), [6])
    for question in (one, two, one):
        both = np.concatenate([prefix, question])
        wanted = stock_logits(loaded, both, np.arange(len(both)))[-1:]
        places = 7 + np.arange(len(question))
        logits, _ = graphs.read(question, places, cache, [len(question) - 1])
        np.testing.assert_allclose(logits, wanted, **TIGHT)


def test_the_embeddings_are_those_of_the_model(pair):
    graphs, loaded = pair
    table = loaded.model.get_input_embeddings().weight.numpy()
    assert np.array_equal(graphs.manifest.embeddings(), table)
