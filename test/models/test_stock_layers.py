# SPDX-License-Identifier: Apache-2.0
"""transformers' own layers under explicit masks, against the loop of our own: the same answers."""

import numpy as np
import pytest
import torch
from family_reference import images

from svd_vlm_ros import models
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.checkpoint import decoder_parts
from svd_vlm_ros.models.language.model import CachedLanguageModel
from svd_vlm_ros.models.language.stock import PlacedWorkspace, StockDecoder
from svd_vlm_ros.models.stock import LoadedStock
from svd_vlm_ros.models.tokens import Tokens
from svd_vlm_ros.selection import Budget, make_selector

QUESTIONS = ("what is it?", "is the path clear ahead, and how is the sky?", "describe the scene.")
CHOICES = [(QUESTIONS[0], ("yes", "no, not at all")), (QUESTIONS[1], ("red", "red car", "sky"))]
IMAGES = images()
LLAVA = "random:tiny"
# Llama; Qwen2; Qwen3 with M-RoPE and DeepStack
MODELS = (LLAVA, "random:tiny-internvl", "random:tiny-qwen3_vl")


def own(loaded):
    model = loaded.model
    config = model.config.get_text_config()
    return CachedLanguageModel(decoder_parts(model.model.language_model, model.lm_head, config))


def stock(loaded):
    model = loaded.model
    return CachedLanguageModel(StockDecoder(model.model.language_model, model.lm_head))


@pytest.fixture(scope="module", params=MODELS)
def engines(request):
    """The same model by our own loop, and by transformers' layers."""
    options = {"precision": "fp32", "device": "cpu", "selector": "svd", "visual_tokens": 12}
    ours = SceneEngine.load(request.param, **options)
    patched = pytest.MonkeyPatch()
    if request.param == LLAVA:
        patched.setattr(type(ours.loaded), "language_model", stock)
    else:
        patched.setattr(type(ours.loaded.family), "stock_layers", True)
    theirs = SceneEngine.load(request.param, **options)
    assert isinstance(theirs.loaded.language_model().decoder, StockDecoder)
    yield ours, theirs
    patched.undo()


def test_answers_one_by_one_and_in_a_batch(engines):
    for image in IMAGES.values():
        wanted, scene = (engine.see(image) for engine in engines)
        alone = [
            [engine.ask(seen, question, max_new_tokens=6).token_ids for question in QUESTIONS]
            for engine, seen in zip(engines, (wanted, scene), strict=True)
        ]
        assert alone[0] == alone[1]
        for read in (engines[1].see(image), scene):  # unread, and read before
            together = engines[1].ask_many(read, QUESTIONS, max_new_tokens=6)
            assert [answer.token_ids for answer in together] == alone[0]
        for again in (1, 0, 2):
            answer = engines[1].ask(scene, QUESTIONS[again], max_new_tokens=6)
            assert answer.token_ids == alone[0][again]


def test_choices(engines):
    found = [engine.choose_many(engine.see(IMAGES["wide"]), CHOICES) for engine in engines]
    for ours, theirs in zip(*found, strict=True):
        assert ours.text == theirs.text
        assert np.allclose(ours.probabilities, theirs.probabilities, atol=1e-5)


def test_questions_with_visual_tokens_of_their_own(engines):
    for engine in engines:
        engine.use_selector("mmtok", visual_tokens=12)
    asked = [
        engine.ask_many(engine.see(IMAGES["tall"]), QUESTIONS, max_new_tokens=6)
        for engine in engines
    ]
    for ours, theirs in zip(*asked, strict=True):
        assert ours.token_ids == theirs.token_ids
    for engine in engines:
        engine.use_selector("svd", visual_tokens=12)


def test_nothing_is_dropped_between_stock_layers(engines):
    language = engines[1].loaded.language_model()
    with pytest.raises(UserError, match="'fastv' can't act between"):
        language.pruning(make_selector("fastv"), Budget(12), 12)


def read(language, tokens):
    cache = language.decoder.workspace()
    cache.begin(None, len(tokens))
    with torch.inference_mode():
        return language.decoder.read(tokens, cache)


def test_our_own_loop_refuses_tokens_that_look_behind(engines):
    loaded = engines[0].loaded
    ours, theirs = own(loaded), stock(loaded)
    text = theirs.embed(range(5, 15))
    rows = text.rows.detach()
    mutual = torch.arange(10) % 5 != 0  # 1 to 4 are one image, 6 to 9 another
    seeing = Tokens(rows, None, 10, mutual=mutual)
    with pytest.raises(ValueError, match="one way"):
        read(ours, seeing)
    found, causal = read(theirs, seeing), read(theirs, Tokens(rows, None, 10))
    torch.testing.assert_close(found[0], causal[0])
    assert not torch.allclose(found[1], causal[1])  # sees 2 to 4
    # What stands behind an image does not change how it was read.
    first = read(theirs, Tokens(rows[:6], None, 6, mutual=mutual[:6]))
    torch.testing.assert_close(found[:6], first, atol=1e-4, rtol=1e-4)


def test_a_workspace_with_places_follows_its_prefix():
    loaded = models.load("random:tiny-internvl", precision="fp32", device="cpu")
    assert isinstance(loaded, LoadedStock)
    language = loaded.model.model.language_model
    decoder = StockDecoder(language, loaded.model.lm_head)
    assert not isinstance(decoder.workspace(), PlacedWorkspace)
    language.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="linear_attention can't share"):
        StockDecoder(language, loaded.model.lm_head)
