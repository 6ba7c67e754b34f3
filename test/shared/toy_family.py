# SPDX-License-Identifier: Apache-2.0
"""The smallest model family: a linear encoder without class token, a grid that is not square, a
prompt and positions of its own. It shows what a family has to bring, and holds the seam to it.
"""

import json
from dataclasses import dataclass

import torch
from PIL import Image
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import find_folder, scout_folder
from svd_vlm_ros.models.images import Framing, ProcessedImage
from svd_vlm_ros.models.language.decoder import DecoderParts
from svd_vlm_ros.models.language.model import CachedLanguageModel
from svd_vlm_ros.models.loading import end_tokens
from svd_vlm_ros.models.prompt import Prompt, Template
from svd_vlm_ros.models.relevance import by_words
from svd_vlm_ros.models.tokens import Tokens
from svd_vlm_ros.planning.shapes import Connector, Decoder, ModelSizes, Tower
from svd_vlm_ros.planning.views import Fixed
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.tokens import token_rows

ROWS, COLUMNS, PATCH, WIDTH, HIDDEN = 3, 5, 8, 24, 32
TEMPLATE = Template("<photo>", "{system}{image} ask: {question} say:", system="[{system}] ")


class Images:
    size, grid, aspects = COLUMNS * PATCH, (ROWS, COLUMNS), ("pad",)
    tokens = ROWS * COLUMNS

    def __call__(self, image, aspect):
        small = Image.fromarray(image).resize((COLUMNS * PATCH, ROWS * PATCH))
        height, width = image.shape[:2]
        framing = Framing(height, width, 0.0, 0.0, width / COLUMNS, height / ROWS, self.grid)
        pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).float() / 255
        return ProcessedImage(pixels.view(ROWS * PATCH, COLUMNS * PATCH, 3), framing)


class ToyModel(nn.Module):
    def __init__(self, vocabulary, end):
        super().__init__()
        self.eye = nn.Linear(3 * PATCH * PATCH, WIDTH)
        self.connect = nn.Linear(WIDTH, HIDDEN)
        sizes = {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 3}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
        context = {"max_position_embeddings": 512, "vocab_size": vocabulary, "eos_token_id": end}
        self.text = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **context))


class Encoder:
    gives = frozenset({"projected"})

    def __init__(self, model):
        self.model = model

    def __call__(self, image, needs=frozenset(), selector=None, budget=None):
        tiles = image.pixels.unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH)
        patches = self.model.eye(tiles.reshape(ROWS * COLUMNS, -1)).tanh()
        projected = self.model.connect(patches) if "projected" in needs else None
        return VisualFeatures(patches, (ROWS, COLUMNS), projected=projected)


@dataclass(frozen=True, eq=False)
class Projector:
    project: nn.Module

    def __call__(self, features, selection):  # all patches of a row of the grid share a position
        rows = self.project(token_rows(features, selection))
        return Tokens(rows, selection.indices // COLUMNS, ROWS)

    def room(self, features, kept):
        return max(kept, ROWS)


@dataclass(frozen=True, eq=False)
class LoadedToy:
    model: ToyModel
    tokenizer: object
    precision: str
    images = Images()
    context, dtype, device = 512, torch.float32, torch.device("cpu")
    random_weights = False
    prunes = True

    @property
    def components(self):
        return {"vision": ("eye",), "language_model": ("text.model",)}

    @property
    def end_token_ids(self):
        return end_tokens(None, self.tokenizer)

    def prompt(self, system_prompt):
        return Prompt(self.tokenizer, TEMPLATE, system_prompt)

    def encoder(self):
        return Encoder(self.model)

    def connector(self):
        return Projector(self.model.connect)

    def language_model(self):
        stock, head = self.model.text.model, self.model.text.lm_head
        parts = (stock.embed_tokens, tuple(stock.layers), stock.norm, head, stock.rotary_emb)
        return CachedLanguageModel(DecoderParts(*parts, 4, 2, HIDDEN // 4, self.context))

    def compare(self, selector):
        if selector.relevance != "words":
            raise UserError("A toy compares by words: take relevance='words'.")
        return by_words()


class ToyFamily:
    model_type, random_models = "toy", ()

    def is_random(self, name):
        return False

    def check(self, name, config):
        pass

    def check_relevance(self, selector):
        pass

    def relevance(self, name):
        return "words"

    def sizes(self, name):
        decoder = Decoder(HIDDEN, 64, 3, 4, 2, HIDDEN // 4, 512)
        pixels = 3 * PATCH * PATCH
        tower = Tower(WIDTH, WIDTH, 1, 1, pixels, weights=(pixels + 1) * WIDTH)
        connector = Connector(weights=(WIDTH + 1) * HIDDEN, token_macs=WIDTH * HIDDEN)
        return ModelSizes(name, tower, connector, decoder, Fixed(ROWS * COLUMNS))

    def load(self, name, *, precision, device, seed, options):
        folder = find_folder(name)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = ToyModel(len(tokenizer), tokenizer.eos_token_id)
        load_model(model, folder / "model.safetensors")
        return LoadedToy(model.eval().requires_grad_(False), tokenizer, precision)


def make_toy(folder):
    """Write a checkpoint with random weights and return its folder."""
    tokenizer = AutoTokenizer.from_pretrained(scout_folder(), local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<photo>"]})
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(ToyModel(len(tokenizer), tokenizer.eos_token_id), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "toy"}))
    return folder
