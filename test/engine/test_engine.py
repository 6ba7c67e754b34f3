# SPDX-License-Identifier: Apache-2.0
"""What the engine promises: scenes that never change, answers that end, mistakes that are named."""

import itertools
import math

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from svd_vlm_ros.cpu import computes_bfloat16
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError

QUESTIONS = ("is the path clear?", "what colour is the car?", "how many people are there?")
generator = np.random.default_rng(0)
WIDE = generator.integers(0, 256, (90, 160, 3), dtype=np.uint8)
TALL = generator.integers(0, 256, (70, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine(small_checkpoint):
    return SceneEngine.load(str(small_checkpoint), precision="fp32", visual_tokens=16, device="cpu")


@pytest.fixture(scope="module")
def scene(engine):
    return engine.see(WIDE)


def alike(answer, other):
    """Whether two answers are the same. Their probabilities differ in the last bits: the image is
    read with the first question, and a pass over more rows adds up in another order (with AVX2
    alone up to 1.1e-5 of a probability of 0.003 was seen).
    """
    numbers = (*answer.probabilities, answer.confidence)
    wanted = pytest.approx((*other.probabilities, other.confidence), rel=3e-5)
    rest = answer.token_ids, answer.finish_reason, answer.prompt_tokens
    return rest == (other.token_ids, other.finish_reason, other.prompt_tokens) and numbers == wanted


def test_a_scene_asked_in_any_order_answers_like_a_fresh_one(engine):
    fresh = {q: engine.ask(engine.see(WIDE), q, max_new_tokens=12) for q in QUESTIONS}
    chosen = engine.choose(engine.see(WIDE), QUESTIONS[0], ["yes", "no"])
    scene = engine.see(WIDE)
    for order in itertools.permutations(QUESTIONS):
        for question in order:
            assert alike(engine.ask(scene, question, max_new_tokens=12), fresh[question])
            assert alike(engine.choose(scene, QUESTIONS[0], ["yes", "no"]), chosen)
    other = engine.see(TALL)  # neither a new image nor its questions change the old scene
    engine.ask(other, QUESTIONS[1])
    assert alike(engine.ask(scene, QUESTIONS[1], max_new_tokens=12), fresh[QUESTIONS[1]])


def test_a_scene_belongs_to_its_engine(engine, scene):
    other = SceneEngine(engine.loaded, engine.info, engine.selector)
    for ask in (other.ask, lambda *asked: other.choose(*asked, ["yes", "no"])):
        with pytest.raises(ValueError, match="another engine"):
            ask(scene, QUESTIONS[0])


def test_asking_does_not_write_into_the_scene(engine):
    scene = engine.see(WIDE)
    engine.ask(scene, QUESTIONS[1], max_new_tokens=1)
    before = [state.clone() for layer in scene.prefix.layers for state in layer]
    engine.ask(scene, QUESTIONS[0])
    engine.choose(scene, QUESTIONS[0], ["yes", "no"])
    after = [state for layer in scene.prefix.layers for state in layer]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert scene.prefix.memory_bytes == sum(state.nbytes for state in after)


def test_a_prefix_is_written_once(engine):
    scene = engine.see(WIDE)
    engine.ask(scene, QUESTIONS[0], max_new_tokens=1)
    read = scene.prefix.layers
    with pytest.raises(RuntimeError, match="never change"):
        scene.prefix.fill(())
    assert scene.prefix.layers is read


@pytest.mark.parametrize("first", ["ask", "ask_many", "choose", "choose_many"])
def test_the_image_is_read_with_the_first_question(engine, first):
    """One pass less; and what is kept of it serves all later questions."""
    later = engine.see(WIDE)
    engine.ask(later, "where is the dog?", max_new_tokens=1)
    choices = ["yes", "no"]
    calls = {
        "ask": lambda scene: [engine.ask(scene, QUESTIONS[0], max_new_tokens=8)],
        "ask_many": lambda scene: engine.ask_many(scene, QUESTIONS, max_new_tokens=8),
        "choose": lambda scene: [engine.choose(scene, QUESTIONS[0], choices)],
        "choose_many": lambda scene: engine.choose_many(scene, [(q, choices) for q in QUESTIONS]),
    }
    passes = []
    hook = engine.loaded.model.model.language_model.norm.register_forward_hook(
        lambda _, rows, __: passes.append(len(rows[0]))
    )
    scene = engine.see(WIDE)
    assert passes == []
    assert scene.prefix.layers == ()
    answers = calls[first](scene)
    hook.remove()
    assert passes[0] > 16
    assert len(passes) == (1 if first.startswith("choose") else 8)
    assert scene.prefix.unread is None
    for mine, other in zip(scene.prefix.layers, later.prefix.layers, strict=True):
        for a, b in zip(mine, other, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
    for answer, other in zip(answers, calls[first](later), strict=True):
        assert alike(answer, other)
    for answer, other in zip(answers, calls[first](scene), strict=True):
        assert alike(answer, other)


def test_a_first_question_that_fails_leaves_the_image_for_the_next(engine, monkeypatch):
    scene = engine.see(WIDE)
    assert engine.ask(scene, QUESTIONS[0], should_stop=lambda: "cancel").token_ids == ()
    assert scene.prefix.unread is not None
    layer = engine.loaded.model.model.language_model.layers[1]
    with monkeypatch.context() as broken:
        broken.setattr(layer.mlp, "forward", lambda _: (_ for _ in ()).throw(MemoryError("full")))
        with pytest.raises(MemoryError):
            engine.ask(scene, QUESTIONS[0])
    assert scene.prefix.layers == ()
    again, fresh = engine.ask(scene, QUESTIONS[0]), engine.ask(engine.see(WIDE), QUESTIONS[0])
    assert alike(again, fresh)


def test_a_new_image_changes_features_and_answers(engine):
    other = WIDE.copy()
    other[45, 80] ^= 255  # one pixel
    first, second = engine.features(WIDE).patches, engine.features(other).patches
    assert not torch.equal(first, second)
    assert torch.equal(first, engine.features(WIDE).patches)
    assert engine.ask(engine.see(TALL), QUESTIONS[0]).token_ids != (
        engine.ask(engine.see(WIDE), QUESTIONS[0]).token_ids
    )


def test_the_image_is_not_changed_and_not_kept(engine):
    image = WIDE.copy()
    scene = engine.see(image)
    answer = engine.ask(scene, QUESTIONS[0])
    assert np.array_equal(image, WIDE)
    image[:] = 0
    assert alike(engine.ask(scene, QUESTIONS[0]), answer)


def test_the_last_vision_layer_is_never_computed(checkpoint):
    engine = SceneEngine.load(str(checkpoint), precision="fp32")
    layers = engine.loaded.model.model.vision_tower.encoder.layers
    computed = []
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, index=index: computed.append(index))
    engine.see(WIDE)
    assert computed == list(range(len(layers) - 1))


def test_what_a_scene_has(engine, scene):
    assert (scene.tokens_kept, scene.tokens_total, scene.grid) == (16, 49, (7, 7))
    assert scene.image_shape == (90, 160, 3)
    assert len(scene.selection.indices) == 16
    assert scene.timings.total == pytest.approx(
        sum(
            getattr(scene.timings, stage)
            for stage in ("preprocess", "encode", "select", "project", "prefill")
        )
    )
    # 160 x 90 in a square of 160: rows of 160 / 7 pixels, the first and the last are padding
    assert scene.patch_box(0)[1] == scene.patch_box(0)[3]
    assert scene.patch_box(24) == pytest.approx((68.571, 33.571, 91.429, 56.429), abs=1e-3)
    kept = [scene.patch_box(index) for index in scene.selection.indices.tolist()]
    assert all(x1 > x0 and y1 > y0 for x0, y0, x1, y1 in kept)


def test_what_the_engine_has(engine, small_checkpoint):
    info = engine.info
    assert info.model == str(small_checkpoint)
    assert (info.precision, info.dtype, info.device) == ("fp32", "float32", "cpu")
    assert (info.selector, info.visual_tokens, info.token_cap) == ("svd-cover", 16, 192)
    assert (info.visual_tokens_total, info.grid, info.image_size) == (49, (7, 7), 112)
    assert (info.aspect, info.context, info.random_weights) == ("pad", 1024, False)
    model = engine.loaded.model
    tensors = [*model.parameters(), *model.buffers()]
    assert info.weight_bytes == sum(tensor.nbytes for tensor in tensors)
    assert engine.peak_memory_bytes() == 0


@pytest.mark.parametrize(
    ("visual_tokens", "kept"), [(1, 1), (20, 20), (49, 35), (5000, 35), (1.0, 12), (0.05, 1)]
)
def test_the_budget_of_one_image(engine, visual_tokens, kept):
    # 35 of the 49 patches of a wide image show some of it
    engine = SceneEngine(
        engine.loaded,
        engine.info.__class__(**{**vars(engine.info), "token_cap": 12}),
        engine.selector,
    )
    assert engine.see(WIDE, visual_tokens=visual_tokens).tokens_kept == kept


@pytest.mark.parametrize("visual_tokens", [0, -3, 0.0, 1.5, 64.0, True, "64", float("nan")])
def test_budgets_out_of_range_are_refused(engine, visual_tokens):
    with pytest.raises(UserError):
        engine.see(WIDE, visual_tokens=visual_tokens)
    with pytest.raises(UserError):
        SceneEngine.load("random:tiny", visual_tokens=visual_tokens)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (WIDE.astype(np.float32), "uint8, not float32"),
        (WIDE[..., 0], "height, width, 3"),
        (np.zeros((4, 4, 4), np.uint8), "height, width, 3"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((2, 400, 3), np.uint8), "too long and thin"),
        (WIDE.tolist(), "NumPy array, not list"),
        (None, "NumPy array, not NoneType"),
    ],
)
def test_images_that_can_not_be_used_are_named(engine, image, sentence):
    with pytest.raises(UserError, match=sentence):
        engine.see(image)


@pytest.mark.parametrize(
    "image",
    [WIDE[::-1], WIDE[:, ::-2], np.asfortranarray(WIDE), np.broadcast_to(WIDE[:1, :1], (9, 9, 3))],
)
def test_images_of_any_memory_layout_are_read(engine, image):
    image.flags.writeable = False
    same = engine.features(np.ascontiguousarray(image)).patches
    assert torch.equal(engine.features(image).patches, same)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("what\x00now?", "U\\+0000"),
        ("\x1b[2J", "U\\+001B"),
        ("half \ud83d", "U\\+D83D"),
        ("a" * 100_000, "100000 characters"),
        ("why? " * 1000, "tokens; beside the image"),
        (None, "must be text, not NoneType"),
        (b"why?", "must be text, not bytes"),
    ],
)
def test_questions_that_can_not_be_asked_are_named(engine, scene, question, sentence):
    for ask in (engine.ask, lambda s, q: engine.choose(s, q, ["yes", "no"])):
        with pytest.raises(UserError, match=sentence):
            ask(scene, question)
    # What was refused left no trace in the scene.
    fresh = engine.ask(engine.see(WIDE), QUESTIONS[0])
    assert fresh.answer_tokens > 0
    assert alike(engine.ask(scene, QUESTIONS[0]), fresh)


def test_room_for_the_answer_is_counted(engine, scene):
    asked = engine.ask(scene, QUESTIONS[0], max_new_tokens=1).prompt_tokens
    room = engine.info.context - asked
    stops = itertools.chain([None], itertools.repeat("enough"))
    engine.ask(scene, QUESTIONS[0], max_new_tokens=room, should_stop=lambda: next(stops))
    with pytest.raises(UserError, match=f"an answer of {room + 1} tokens"):
        engine.ask(scene, QUESTIONS[0], max_new_tokens=room + 1)
    with pytest.raises(UserError, match="max_new_tokens"):
        engine.ask(scene, QUESTIONS[0], max_new_tokens=0)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_should_stop_ends_the_answer_before_the_next_token(engine, scene, after):
    whole = engine.ask(scene, QUESTIONS[0], max_new_tokens=8)
    assert whole.answer_tokens > 3
    calls = []

    def should_stop():
        calls.append(None)
        return "canceled" if len(calls) > after else None

    answer = engine.ask(scene, QUESTIONS[0], max_new_tokens=8, should_stop=should_stop)
    assert answer.finish_reason == "canceled"
    assert answer.token_ids == whole.token_ids[:after]
    assert len(calls) == after + 1
    assert (answer.confidence == 0.0) == (after == 0)


def test_should_stop_spares_the_reading_of_the_question(engine, scene):
    computed = []
    # The last module of every pass through the language model's layers.
    hook = engine.loaded.model.model.language_model.norm.register_forward_hook(
        lambda *_: computed.append(None)
    )
    engine.ask(scene, QUESTIONS[0], should_stop=lambda: "canceled")
    assert computed == []
    engine.ask(scene, QUESTIONS[0], max_new_tokens=1)
    assert len(computed) == 1  # the question; nothing is computed behind the last token
    hook.remove()


def test_text_streams_as_it_is_written(engine, scene):
    texts = []
    answer = engine.ask(scene, QUESTIONS[0], max_new_tokens=6, on_text=texts.append)
    assert len(texts) == answer.answer_tokens
    assert texts[-1] == answer.text


def test_confidence_is_the_geometric_mean_of_the_probabilities(engine, scene):
    answer = engine.ask(scene, QUESTIONS[0], max_new_tokens=5)
    ids = engine._prompt.after(QUESTIONS[0])
    with torch.inference_mode():
        rows = engine._language.embed(ids)
        total = engine._language.score(scene.prefix, [(rows, [answer.token_ids])])[0][0]
    assert answer.confidence == pytest.approx(math.exp(total / answer.answer_tokens), rel=1e-4)


def test_an_end_token_ends_the_answer(engine, scene):
    first, second = engine.ask(scene, QUESTIONS[0], max_new_tokens=2).token_ids
    loaded = engine.loaded
    for end, kept in ((second, (first,)), (first, ())):
        changed = type(loaded)(**{**vars(loaded), "end_token_ids": frozenset({end})})
        other = SceneEngine(changed, engine.info, engine.selector)
        answer = other.ask(other.see(WIDE), QUESTIONS[0])
        assert (answer.token_ids, answer.finish_reason) == (kept, "stop")
        assert 0.0 < answer.confidence <= 1.0
    assert engine.ask(scene, QUESTIONS[0], max_new_tokens=2).finish_reason == "length"


CHOICES = ("yes", "no", "a red car on the left", "a red car", "2")


def test_choices_are_scored_as_by_passes_of_their_own(engine, scene):
    answer = engine.choose(scene, QUESTIONS[0], CHOICES)
    assert sum(answer.probabilities) == pytest.approx(1.0, abs=1e-12)
    assert answer.text == CHOICES[int(np.argmax(answer.probabilities))]
    assert answer.confidence == max(answer.probabilities)
    assert answer.finish_reason == "choice"
    end = engine.loaded.model.generation_config.eos_token_id
    model, scores = engine.loaded.model, []
    for choice in CHOICES:
        ids = [
            *engine._prompt.after(QUESTIONS[0]),
            *engine._prompt.answer(QUESTIONS[0], choice),
            end,
        ]
        asked = len(engine._prompt.after(QUESTIONS[0]))
        with torch.inference_mode():
            logits = model(
                inputs_embeds=engine._language.embed(ids).rows[None],
                past_key_values=DynamicCache(ddp_cache_data=scene.prefix.layers),
            ).logits[0]
        logs = logits.double().log_softmax(-1)
        scores.append(sum(float(logs[i - 1, ids[i]]) for i in range(asked, len(ids))))
    wanted = torch.tensor(scores).softmax(0).tolist()
    assert answer.probabilities == pytest.approx(wanted, rel=1e-4)


def test_the_order_of_choices_does_not_matter(engine, scene):
    straight = engine.choose(scene, QUESTIONS[0], CHOICES)
    turned = engine.choose(scene, QUESTIONS[0], CHOICES[::-1])
    assert turned.text == straight.text
    assert turned.probabilities[::-1] == pytest.approx(straight.probabilities, rel=1e-4)


def test_choices_cost_one_pass(engine, scene):
    computed = []
    # The last module of every pass through the language model's layers.
    hook = engine.loaded.model.model.language_model.norm.register_forward_hook(
        lambda *_: computed.append(None)
    )
    engine.choose(scene, QUESTIONS[0], CHOICES)
    hook.remove()
    assert len(computed) == 1


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ([], "two or more"),
        (["yes"], "two or more"),
        ("yes", "two or more"),
        (["yes", " "], "choice is empty"),
        (["yes", " yes"], "the same"),
        (["yes", None], "choice must be text"),
        (["yes", "no " * 2000], "beside the image|characters"),
    ],
)
def test_choices_that_can_not_be_used_are_named(engine, scene, choices, sentence):
    with pytest.raises(UserError, match=sentence):
        engine.choose(scene, QUESTIONS[0], choices)


@pytest.mark.parametrize("text", ["<image>", "</s>", "<s>", "<pad>", "<unk>", "<<image>image>"])
def test_special_tokens_in_a_question_are_only_text(engine, scene, text):
    question = f"what does {text} mean?"
    ids = engine._prompt.after(question)
    special = set(engine.loaded.tokenizer.all_special_ids) | {engine.loaded.image_token_id}
    assert special.isdisjoint(ids)
    answer = engine.ask(scene, question, max_new_tokens=3)
    assert answer.prompt_tokens == scene.prefix.length + len(ids)
    engine.choose(scene, question, [f"{text} yes", "no"])


def test_describe_asks_a_standing_prompt(engine, scene):
    described = engine.describe(scene, max_new_tokens=4)
    assert (
        described.token_ids == engine.ask(scene, "Describe the scene.", max_new_tokens=4).token_ids
    )
    other = engine.describe(scene, QUESTIONS[0], max_new_tokens=4)
    assert other.token_ids == engine.ask(scene, QUESTIONS[0], max_new_tokens=4).token_ids


def test_times_are_given(engine, scene):
    times = engine.ask(scene, QUESTIONS[0], max_new_tokens=4).timings
    assert 0 < times.prefill <= times.first_token <= times.total
    assert 0 < times.decode <= times.total
    times = engine.choose(scene, QUESTIONS[0], ["yes", "no"]).timings
    assert 0 < times.first_token <= times.total
    assert engine.warm_up() > 0


def test_a_typical_image_is_the_square_that_the_tower_sees(engine):
    size = engine.info.image_size
    assert engine.info.typical_image == (size, size)
    assert engine.see(np.zeros((size, size, 3), np.uint8)).framing.valid() is None  # no padding


def test_a_closed_engine_frees_its_weights_and_says_so(small_checkpoint):
    import gc
    import weakref

    engine = SceneEngine.load(str(small_checkpoint), precision="fp32")
    scene = engine.see(WIDE)
    weights = weakref.ref(engine.loaded.model)
    engine.close()
    engine.close()
    gc.collect()
    assert weights() is None
    for use in (
        lambda: engine.see(WIDE),
        lambda: engine.features(WIDE),
        lambda: engine.ask(scene, QUESTIONS[0]),
        lambda: engine.choose(scene, QUESTIONS[0], CHOICES),
        engine.warm_up,
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    assert scene.patch_box(24)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "int4"])
def test_every_precision_answers(precision):
    engine = SceneEngine.load("random:tiny", precision=precision, visual_tokens=32, device="cpu")
    assert engine.info.random_weights
    assert engine.warm_up() > 0
    scene = engine.see(WIDE)
    answer = engine.ask(scene, QUESTIONS[0], max_new_tokens=6)
    assert answer.answer_tokens == 6 or answer.finish_reason == "stop"
    again = engine.ask(scene, QUESTIONS[0], max_new_tokens=6)
    assert again.token_ids == answer.token_ids
    chosen = engine.choose(scene, QUESTIONS[0], CHOICES)
    assert sum(chosen.probabilities) == pytest.approx(1.0)


def test_quantization_does_not_move_the_kept_patches():
    kept = {
        precision: SceneEngine.load("random:tiny", precision=precision, device="cpu")
        .see(WIDE)
        .selection.indices.tolist()
        for precision in ("fp32", "bf16", "int8", "int4")
    }
    assert kept["int8"] == kept["int4"]
    if computes_bfloat16():
        assert kept["int8"] == kept["bf16"]
    else:  # the tower's weights are kept in float16 then, beside activations in float32
        assert len({*kept["int8"]} & {*kept["fp32"]}) >= 0.95 * len(kept["fp32"])


def test_random_weights_follow_the_seed():
    def answer(seed):
        engine = SceneEngine.load("random:tiny", precision="fp32", seed=seed, device="cpu")
        return engine.ask(engine.see(WIDE), QUESTIONS[0], max_new_tokens=8).token_ids

    state = torch.get_rng_state()
    assert answer(0) == answer(0)
    assert answer(0) != answer(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_reaches_the_random_selector(small_checkpoint):
    kept = [
        SceneEngine.load(str(small_checkpoint), selector="random", visual_tokens=8, **options)
        .see(WIDE)
        .selection.indices.tolist()
        for options in ({}, {"seed": 1}, {"seed": 1, "selector_options": {"seed": 0}})
    ]
    assert kept[0] == kept[2] != kept[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"aspect": "stretch"}, "no aspect 'stretch'"),
        ({"selector": "best"}, "no selector 'best'"),
        ({"precision": "int2"}, "no precision 'int2'"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"cpu_threads": -1}, "cpu_threads"),
        ({"selector_options": {"rank": "full"}}, "rank"),
        ({"token_cap": 0, "visual_tokens": 0.9}, "visual tokens"),
        ({"model": "random:huge"}, "no random model 'random:huge'"),
        ({"model": "nobody/nothing"}, "svd-vlm download nobody/nothing.*'scout'"),
        ({"model": ""}, "empty"),
    ],
)
def test_wrong_arguments_are_named(options, sentence):
    with pytest.raises(UserError, match=sentence):
        SceneEngine.load(**{"model": "random:tiny", **options})


def test_threads_are_set_on_request(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    SceneEngine.load("random:tiny", cpu_threads=1)
    SceneEngine.load("random:tiny")
    assert asked == [1]
