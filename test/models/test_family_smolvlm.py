# SPDX-License-Identifier: Apache-2.0
"""What is SmolVLM's and Idefics3's own: tiles of any image, their names, and how many there are."""

import json
from itertools import combinations
from typing import ClassVar

import numpy as np
import pytest
import torch
from families.reference_idefics3 import Idefics3
from families.reference_smolvlm import BORDER, WHOLE, SmolVLM
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models import load
from svd_vlm_ros.models.files import scout_folder
from svd_vlm_ros.models.idefics3 import FAMILY as IDEFICS3
from svd_vlm_ros.models.interface import ModelOptions
from svd_vlm_ros.models.registry import family_of_config
from svd_vlm_ros.models.smolvlm import FAMILY as SMOLVLM
from svd_vlm_ros.models.smolvlm.connector import TileConnector, lay_out
from svd_vlm_ros.models.smolvlm.prompt import marked_text
from svd_vlm_ros.selection import Budget

CAMERAS = ((480, 640), (720, 1280))
SHAPES = (
    *CAMERAS,
    (720, 720),
    (10, 500),  # 50 : 1
    (500, 10),
    (1, 1),
    (3, 70),  # could be taken for three channels, or for four
    (4, 31),
    (31, 3),
    (2000, 3000),
)
# Tile, patch, scale, tokens: SmolVLM2-2.2B; 500M and the SmolVLM of 256M; Idefics3-8B.
PUBLISHED = ((384, 14, 3, 81), (512, 16, 4, 64), (364, 14, 2, 169))
TINY = (32, 5, 3, 4)


def published(family, side, patch, scale, options=None):
    """A family's image processor by its published settings."""
    vision = {"image_size": side, "patch_size": patch}
    config = family.model_class().config_class(vision_config=vision, scale_factor=scale)
    return family.image_processor(None, config, options or ModelOptions())


def where(height, width):
    """An image whose colours say where: red from left to right, green from the top down."""
    image = np.zeros((height, width, 3))
    image[..., 0] = (np.arange(width) + 0.5) / width * 255
    image[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    return image.round().astype(np.uint8)


@pytest.mark.parametrize(("name", "tokens"), [("2.2b", 13 * 81), ("500m", 13 * 64)])
def test_full_size_models_make_the_published_number_of_tokens(name, tokens):
    config = SMOLVLM.random_config(f"random:smolvlm2-{name}")
    images = SMOLVLM.image_processor(None, config, ModelOptions())
    assert images.tokens == tokens
    per_tile = (images.side // images.block) ** 2
    for shape in CAMERAS:
        made = images(np.zeros((*shape, 3), np.uint8), "pad")
        assert len(made.pixels) * per_tile == tokens
        assert len(made.framing.tiles) == 13
        assert made.framing.thumbnail == 12


@pytest.mark.parametrize(("name", "billions"), [("2.2b", 2.25), ("500m", 0.507)])
def test_full_size_models_have_the_published_number_of_weights(name, billions):
    config = SMOLVLM.random_config(f"random:smolvlm2-{name}")
    config.get_text_config().pad_token_id = 0
    with torch.device("meta"):
        model = SMOLVLM.model_class()(config)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.005)
    sizes = SMOLVLM.sizes(f"random:smolvlm2-{name}")
    text = sum(p.numel() for p in model.model.text_model.parameters())
    decoder = sizes.decoder
    assert text == decoder.linear_weights + decoder.embedding_weights + decoder.norm_weights


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        *((TINY, shape) for shape in SHAPES),
        *((settings, shape) for settings in PUBLISHED for shape in (*CAMERAS, (10, 500), (4, 31))),
    ],
)
def test_pixels_are_the_processors_and_none_is_padding(settings, shape):
    side, patch, scale, per_tile = settings
    family = IDEFICS3 if side == 364 else SMOLVLM
    images = published(family, side, patch, scale)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    made = images(image, "pad")
    wanted = images.processor(Image.fromarray(image), return_tensors="pt")
    assert torch.equal(made.pixels, wanted["pixel_values"][0])
    assert bool((wanted["pixel_attention_mask"] == 1).all())
    grids = [tile.grid for tile in made.framing.tiles]
    assert {rows * columns for rows, columns in grids} == {per_tile}
    assert len(grids) == len(made.pixels)
    assert made.framing.valid() is None
    assert (made.framing.height, made.framing.width) == shape


@pytest.mark.parametrize("shape", [(480, 640), (1280, 720), (300, 2400)])
@pytest.mark.parametrize(("side", "patch", "scale"), [(384, 14, 3), (512, 16, 4), (32, 5, 3)])
def test_a_patch_shows_what_its_box_says(side, patch, scale, shape):
    images = published(SMOLVLM, side, patch, scale)
    made = images(where(*shape), "pad")
    count, block = side // images.block, images.block
    seen = made.pixels[:, :2, : count * block, : count * block] * 0.5 + 0.5  # 0 to 1
    seen = seen.unflatten(-1, (count, block)).unflatten(-3, (count, block)).mean((-3, -1))
    seen = seen.permute(0, 2, 3, 1).flatten(0, 2)  # [N, 2], as the tokens are ordered
    boxes = torch.tensor([made.framing.patch_box(index) for index in range(len(seen))])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor([shape[1], shape[0]])
    assert (seen - middle).abs().max() < 1.5 / 255
    with pytest.raises(IndexError):
        made.framing.patch_box(len(seen))


@pytest.fixture(scope="module", params=["names known", "names as text"])
def tokenizer(request):
    """Of bytes, as the published ones are, with two line feeds in one token."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    texts = ["<row_1_col_1>", "is the path\n\nclear?", "a\n\n", "what\n\n"] * 9
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=letters, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    special = ["<image>", BORDER, "<end_of_utterance>"]
    if request.param == "names known":
        special += [name for name in SMOLVLM.special_tokens if name not in special]
    made = PreTrainedTokenizerFast(
        tokenizer_object=trained, extra_special_tokens=special, bos_token="<|im_start|>"
    )
    assert len(made("\n\n").input_ids) == 1
    assert (len(made("<row_2_col_1>").input_ids) == 1) == (request.param == "names known")
    return made


@pytest.mark.parametrize("cut", [(0, 0), (1, 4), (4, 1), (3, 4), (2, 2), (5, 5)])
def test_markers_are_the_tokens_of_the_processors_text(tokenizer, cut):
    image, border = tokenizer.convert_tokens_to_ids(["<image>", BORDER])
    wanted = tokenizer(get_image_prompt_string(*cut, 7, BORDER, "<image>", WHOLE)).input_ids
    ids = tokenizer(marked_text(*cut, "<image>"), add_special_tokens=False).input_ids
    layout, markers = lay_out(ids, image, border, 7)
    made = torch.where(layout.slots >= 0, image, markers[(-1 - layout.slots).clamp(min=0)])
    assert made.tolist() == wanted
    tiles = cut[0] * cut[1] + 1
    assert layout.slots[layout.slots >= 0].tolist() == list(range(7 * tiles))


def test_a_tile_of_which_nothing_is_kept_leaves_no_name(tokenizer):
    image, border = tokenizer.convert_tokens_to_ids(["<image>", BORDER])
    ids = tokenizer(marked_text(2, 2, "<image>"), add_special_tokens=False).input_ids
    layout, markers = lay_out(ids, image, border, 3)
    embeddings = markers[:, None].float()
    rows = torch.full((3, 1), float(image))
    kept = torch.tensor([1, 9, 10])  # of the first tile and of the fourth
    placed = layout.place(rows, kept, embeddings, original=False)
    text = tokenizer.decode(placed.rows[:, 0].long().tolist())
    first, fourth = f"{BORDER}<row_1_col_1><image>", f"{BORDER}<row_2_col_2><image><image>"
    assert text == f"{first}\n{fourth}\n\n{BORDER}"
    original = layout.place(rows, kept, embeddings, original=True)
    assert torch.equal(original.rows, placed.rows)
    assert original.span == len(layout.slots) == layout.room(3, original=True)
    assert original.offsets[-1] == original.span - 1


@pytest.mark.parametrize("count", [1, 2, 3, 14, 15])
def test_room_is_what_the_longest_of_all_choices_takes(tokenizer, count):
    image, border = tokenizer.convert_tokens_to_ids(["<image>", BORDER])
    ids = tokenizer(marked_text(2, 2, "<image>"), add_special_tokens=False).input_ids
    layout, markers = lay_out(ids, image, border, 3)
    rows, embeddings = torch.zeros(count, 1), markers[:, None].float()
    longest = max(
        len(layout.place(rows, torch.tensor(kept), embeddings, original=False))
        for kept in combinations(range(15), count)
    )
    assert layout.room(count, original=False) == longest


def test_a_tokenizer_without_borders_is_refused():
    model = load("random:tiny-smolvlm", precision="fp32", device="cpu").model
    with pytest.raises(UserError, match="has no token <fake_token_around_image>"):
        TileConnector(model, AutoTokenizer.from_pretrained(scout_folder()), False)


@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
def test_prompts_begin_once_and_read_as_published(name):
    loaded = load(f"random:tiny-{name}", precision="fp32", device="cpu")
    prompt = loaded.prompt("Be brief.")
    text = "<s>System: Be brief.<end_of_utterance>\nUser:<image>what?<end_of_utterance>\nAssistant:"
    assert prompt.text("what?") == text
    assert prompt.before.count(loaded.tokenizer.bos_token_id) == 1
    assert loaded.template.render("what?", answer="red").endswith("\nAssistant: red")
    assert loaded.template.ending() == "<end_of_utterance>\n"


@pytest.mark.parametrize(
    ("least", "most", "side"),
    [
        (None, None, 128),
        (None, 32 * 32, 32),
        (None, 64 * 64 - 1, 32),
        (None, 64 * 64, 64),
        (None, 10**9, 128),
        (1, None, 128),
        (128 * 128 + 1, None, 160),
        (150 * 150, 160 * 160, 160),
        (65 * 65, 80 * 80, 64),  # nothing lies between: what is at most allowed is made
    ],
)
def test_bounds_of_pixels_are_whole_tiles(least, most, side):
    options = ModelOptions(min_pixels=least, max_pixels=most)
    images = published(SMOLVLM, 32, 5, 3, options)
    assert images.size == side
    made = images(where(90, 90), "pad")
    tiles = (side // 32) ** 2
    assert len(made.pixels) == tiles + (tiles > 1)


def test_less_than_a_tile_is_refused():
    with pytest.raises(UserError, match="max_pixels must be 1024 or more for this model, not 900"):
        load("random:tiny-smolvlm", precision="fp32", options=ModelOptions(max_pixels=900))


class OneTile(SmolVLM):
    sizes: ClassVar = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}


@pytest.mark.parametrize("original", ["contiguous", "original"])
def test_an_image_that_is_not_cut_is_one_tile(original):
    engine = SceneEngine.load(
        "random:tiny-smolvlm",
        precision="fp32",
        device="cpu",
        max_pixels=32 * 32,
        position_policy=original,
        selector="none",
    )
    reference, image = OneTile(engine.loaded), where(60, 90)
    scene = engine.see(image)
    assert scene.grid == (2, 2)
    assert scene.tokens_total == engine.info.visual_tokens_total == 4
    wanted = reference.generate(image, "what is it?", 8)
    assert engine.ask(scene, "what is it?", max_new_tokens=8).token_ids == wanted
    engine.use_selector("svd", visual_tokens=2)
    scene = engine.see(image)
    kept = scene.selection.indices
    wanted = reference.pruned(image, "what is it?", kept, original == "original", 8)
    assert engine.ask(scene, "what is it?", max_new_tokens=8).token_ids == wanted


REFERENCES = {"smolvlm": SmolVLM, "idefics3": Idefics3}


def write(folder, name, **settings):
    """A checkpoint as `save_pretrained` writes it, with the tokenizer of random models."""
    loaded = load(f"random:tiny-{name}", precision="fp32", device="cpu", seed=3)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.chat_template = loaded.family.chat_template
    loaded.tokenizer.save_pretrained(folder)
    processor = REFERENCES[name].processor_class(**{**REFERENCES[name].sizes, **settings})
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", list(REFERENCES))
def test_a_checkpoint_answers_as_generate_does(tmp_path, name):
    folder = write(tmp_path, name)
    engine = SceneEngine.load(folder, precision="fp32", device="cpu", selector="none")
    reference, image = REFERENCES[name](engine.loaded), where(60, 90)
    wanted = reference.generate(image, "what is it?", 8)
    answer = engine.ask(engine.see(image), "what is it?", max_new_tokens=8)
    assert answer.token_ids == wanted


def test_a_checkpoint_that_cuts_nothing_has_no_bounds(tmp_path):
    folder = write(tmp_path, "smolvlm", do_image_splitting=False)
    engine = SceneEngine.load(folder, precision="fp32", device="cpu", selector="none")
    assert engine.info.visual_tokens_total == 4
    assert engine.info.image_size == 32
    assert engine.see(where(60, 90)).grid == (2, 2)
    with pytest.raises(UserError, match="This checkpoint looks at images of one size"):
        SceneEngine.load(folder, precision="fp32", device="cpu", max_pixels=4096)


def test_what_can_not_run_is_refused(tmp_path):
    folder = write(tmp_path, "smolvlm", max_image_size={"longest_edge": 40})
    sentence = "A tile of 40 pixels has 8 x 8 patches, which can't be joined by 3 x 3"
    with pytest.raises(UserError, match=sentence):
        load(folder, precision="fp32", device="cpu")
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["model_type"] = "mistral"
    with pytest.raises(UserError, match="'smolvlm' with the language model 'mistral'"):
        family_of_config("it", config)


def test_the_thumbnail_has_its_share_of_the_budget():
    engine = SceneEngine.load("random:tiny-smolvlm", precision="fp32", device="cpu")
    features = engine.features(where(480, 640))
    assert features.tiles == ((2, 2),) * 13
    assert (features.thumbnail, features.cut) == (12, (3, 4))
    scene = engine.see(where(480, 640), visual_tokens=26)
    assert int((scene.selection.indices >= 48).sum()) == Budget(26).tokens * 4 // 52
