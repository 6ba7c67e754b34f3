# SPDX-License-Identifier: Apache-2.0
"""What the engine is held to for each family: transformers' own `generate`, and a slow reading of
pruning that is built from transformers' public functions alone, without a cache.

A family has a `Reference` in `test/shared/families/reference_<model_type>.py`.
"""

import importlib
import inspect
from dataclasses import dataclass

import numpy as np
import torch

from svd_vlm_ros.models.registry import model_types

TINY = "random:tiny-"


@dataclass
class Full:
    """The whole prompt of an image and a question, nothing dropped.

    rows [n, hidden]; positions [n] or [3, n]; is_patch bool [n]; groups int64 [n]: what a marker
    belongs to, and the patches of the same group; -1: it belongs to all; planes [p, N, hidden].
    """

    rows: torch.Tensor
    positions: torch.Tensor
    is_patch: torch.Tensor
    groups: torch.Tensor
    planes: torch.Tensor | None = None


class Reference:
    """Of one loaded model; a family says what its inputs are.

    Attributes:
        images_differ: whether the number of visual tokens depends on the image's shape.
    """

    images_differ = True

    def __init__(self, loaded):
        self.loaded, self.model, self.tokenizer = loaded, loaded.model, loaded.tokenizer
        self.image_token_id = self.model.config.image_token_id

    def inputs(self, image):
        """What the family's own image processor, made from its published settings, yields."""
        raise NotImplementedError

    def ids(self, inputs, question):
        """The token ids of the whole prompt, image placeholders expanded as the processor does."""
        raise NotImplementedError

    def extra(self, ids):
        """What `generate` takes beside ids, mask and the image's inputs."""
        return {}

    def features(self, inputs):
        """The rows [N, D] that the connector takes, in the order of the visual tokens."""
        raise NotImplementedError

    def projected(self, inputs):
        """The rows [N, hidden] behind the connector, in the same order."""
        full = self.full(inputs, "?")
        return full.rows[full.is_patch]

    def full(self, inputs, question):
        """See `Full`."""
        raise NotImplementedError

    def language(self, rows, positions, mask, visual, planes):
        """The last hidden states [n, hidden] of the stock language model without a cache."""
        language = self.model.get_submodule(self.loaded.components["language_model"][0])
        return language(
            inputs_embeds=rows[None],
            position_ids=positions.unsqueeze(-2),
            attention_mask=mask[None],
        ).last_hidden_state[0]

    def generate(self, image, question, tokens):
        """The new tokens of stock `generate`, without the end token."""
        inputs = self.inputs(image)
        ids = torch.tensor([self.ids(inputs, question)])
        written = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=sorted(self.loaded.end_token_ids),
            **inputs,
            **self.extra(ids),
        )
        return self.until_end(written[0, ids.shape[1] :].tolist())

    def pruned(self, image, question, kept, original, tokens):
        """The new tokens of the slow reading if only `kept` patches stay."""
        full = self.full(self.inputs(image), question)
        number = torch.full((len(full.rows),), -1)
        number[full.is_patch] = torch.arange(int(full.is_patch.sum()))
        stays = full.is_patch & torch.isin(number, kept)
        alive = {-1, *full.groups[stays].tolist()}
        markers = torch.tensor([group in alive for group in full.groups.tolist()])
        stays |= ~full.is_patch & markers
        rows, visual = full.rows[stays], full.is_patch[stays]
        planes = None if full.planes is None else full.planes[:, kept]
        if original:
            positions, following = full.positions[..., stays], int(full.positions.max()) + 1
        else:
            positions = torch.arange(len(rows))
            if full.positions.ndim == 2:
                positions = positions.expand(3, -1)
            following = len(rows)
        found = []
        for step in range(tokens):
            mask = torch.ones(len(rows), dtype=torch.int64)
            hidden = self.language(rows, positions, mask, visual, planes)
            token = int(self.model.lm_head(hidden[-1]).argmax())
            found.append(token)
            rows = torch.cat([rows, self.model.get_input_embeddings()(torch.tensor([token]))])
            after = positions.new_full((*positions.shape[:-1], 1), following + step)
            positions = torch.cat([positions, after], dim=-1)
            visual = torch.cat([visual, torch.tensor([False])])
        return self.until_end(found)

    def until_end(self, ids):
        ends = [index for index, token in enumerate(ids) if token in self.loaded.end_token_ids]
        return tuple(ids[: ends[0]] if ends else ids)

    def text(self, question):
        """The prompt as the chat template writes it."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.loaded.family.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )


def references():
    """{model_type: Reference class} of all families that are not LLaVA-1.5."""
    found = {}
    for model_type in model_types():
        if model_type in ("llava", "toy"):
            continue
        module = importlib.import_module(f"families.reference_{model_type}")
        (found[model_type],) = (
            each
            for _, each in inspect.getmembers(module, inspect.isclass)
            if issubclass(each, Reference) and each.__module__ == module.__name__
        )
    return found


def images():
    """A wide, a tall and a square one."""
    rng = np.random.default_rng(7)
    shapes = {"wide": (90, 210, 3), "tall": (200, 110, 3), "square": (140, 140, 3)}
    return {name: rng.integers(0, 256, shape, dtype=np.uint8) for name, shape in shapes.items()}
