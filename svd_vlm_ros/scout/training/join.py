# SPDX-License-Identifier: Apache-2.0
"""Third stage: tower, projector and language model meet.

The projector begins by writing what the oracle would have written; then projector and language
model are trained together on questions about images, with the oracle's tokens as a side task. The
tower stays as the first stage left it: it reads nearly every patch right by then, and freezing it
saves a third of the time of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..labels import attributes, patch_labels
from ..questions import QUESTION_KINDS
from ..render import render
from ..world import KINDS, sample_scene
from .asked import ASKED, IGNORED, Asked, AskedBatch, Writer, choose_questions, collate_asked
from .common import Part, Run, load_modules, pixel_values, train, training_seed
from .language import (
    Oracle,
    answer_loss,
    forward_asked,
    language_modules,
    random_count,
    random_subset,
)
from .vision import roughen, tower_features

SCENES = 10  # a batch
MOST, WHOLE = 400, 0.4  # tokens of a subset, and the share of the batches that see all 576
POOL, USES = 400, 2
PROJECTOR_SCENES = 16

Sample = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[Asked]]


class AskedImages(IterableDataset):
    """An endless stream of (image, classes, measures, attributes, questions); each use of an
    image asks anew.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker, step = (info.id if info else 0), 0
        writer, rng = Writer(), np.random.default_rng((worker, self.seed, 9))
        pool: list = []
        while True:
            if len(pool) < POOL:
                scene = sample_scene(training_seed(worker, step, self.seed + 1), signs=0.3)
                labels = patch_labels(scene)
                rows = attributes(labels).astype(np.float16)
                pool.append((scene, render(scene), labels.classes, labels.measures, rows))
                step += 1
                index = len(pool) - 1
            else:
                index = int(rng.integers(POOL))
            scene, image, *labeled = pool[index]
            yield (roughen(image, rng), *labeled, writer.row(choose_questions(scene, rng, ASKED)))
            if len(pool) == POOL and rng.random() < 1 / USES:
                pool[index] = pool[-1]
                pool.pop()


def collate(items: list[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor, AskedBatch]:
    """Samples as one batch, in the order of `Sample`."""
    images, classes, measures, rows, asked = zip(*items, strict=True)
    return (
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.stack(classes)),
        torch.from_numpy(np.stack(measures)),
        torch.from_numpy(np.stack(rows)),
        collate_asked(list(asked)),
    )


def _batches(run: Run, scenes: int) -> Iterator:
    data = AskedImages(run.seed)
    return iter(DataLoader(data, batch_size=scenes, collate_fn=collate, num_workers=run.workers))


def train_projector(model: Part, oracle: Oracle, run: Run) -> None:
    """Projector alone: error against the oracle's tokens, on a frozen tower."""
    projector = model.model.multi_modal_projector
    model.to(run.device), oracle.to(run.device)

    def step(batch: Any, share: float) -> tuple[Tensor, dict[str, float]]:
        images, classes, _, rows, _ = batch
        features = frozen_features(model, images, run.device)
        with torch.autocast(run.device.type, torch.bfloat16):
            tokens = projector(features)
        return token_error(tokens, rows, classes, oracle), {}

    modules = {"projector": projector}
    train("projector", run, modules, {"projector": 2e-3}, _batches(run, PROJECTOR_SCENES), step)


@torch.no_grad()
def frozen_features(model: Part, images: Tensor, device: torch.device) -> Tensor:
    """The tower's features of uint8 images [B, 336, 336, 3]: float32 [B, 576, 192]."""
    with torch.autocast(device.type, torch.bfloat16):
        found = tower_features(model.model.vision_tower, pixel_values(images.to(device)))
    return found.float()


def token_error(tokens: Tensor, rows: Tensor, classes: Tensor, oracle: Oracle) -> Tensor:
    """Squared error against the oracle's tokens, as a share of their variance.

    Objects weigh 4 times as much as background, and signs, rare and full of detail, 12 times.
    """
    with torch.no_grad():
        goal = oracle(rows.to(tokens.device).float()).float()
    shown = classes[..., 0].to(tokens.device)
    weight = torch.where(shown < len(KINDS), 4.0, 1.0)
    weight = torch.where(shown == KINDS.index("sign"), 12.0, weight)
    error = (tokens.float() - goal).square().mean(-1) / goal.var(dim=(0, 1)).mean()
    return (error * weight).sum() / weight.sum()


def train_together(model: Part, oracle: Oracle, run: Run) -> None:
    """Projector and language model on images and questions, over the frozen tower."""
    projector = model.model.multi_modal_projector
    model.to(run.device), oracle.to(run.device)
    prefix = Writer().prefix
    held_out = [collate(_held_out(i)) for i in range(2)]

    def step(batch: Any, share: float) -> tuple[Tensor, dict[str, float]]:
        images, classes, _, rows, asked = batch
        features = frozen_features(model, images, run.device)
        with torch.autocast(run.device.type, torch.bfloat16):
            tokens = projector(features)
        keep = random_subset(features, random_count(MOST, WHOLE))
        kept = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
        answers, figures = answer_loss(model, kept, asked.to(run.device), prefix)
        return answers + 0.5 * token_error(tokens, rows, classes, oracle), figures

    def validate() -> dict[str, float]:
        found = accuracy(model, held_out, prefix, run.device)
        return {f"new {name}": value for name, value in found.items()}

    modules = {
        **language_modules(model, oracle),
        "tower": model.model.vision_tower,
        "projector": projector,
    }
    rates = {"projector": 1e-3, "language": 5e-4, "head": 5e-4}
    train("join", run, modules, rates, _batches(run, SCENES), step, validate)


def _held_out(number: int) -> list[Sample]:
    """16 scenes with seeds below the held-out ones that training does not reach."""
    writer, items = Writer(), []
    for i in range(16):
        scene = sample_scene(9_980_000 + 16 * number + i)
        labels = patch_labels(scene)
        asked = choose_questions(scene, np.random.default_rng(i), ASKED)
        rows = attributes(labels).astype(np.float16)
        items.append((render(scene), labels.classes, labels.measures, rows, writer.row(asked)))
    return items


@torch.no_grad()
def accuracy(
    model: Part, batches: list, prefix: list[int], device: torch.device
) -> dict[str, float]:
    """Share of the questions answered exactly, a kind, with all tokens.

    With the true answer as input, the likeliest token is right at every place exactly if greedy
    decoding would give that answer, so one pass is enough.
    """
    language = model.model.language_model
    asked_of = dict.fromkeys(QUESTION_KINDS, 0)
    right_of = dict.fromkeys(QUESTION_KINDS, 0)
    for images, _, _, _, asked_here in batches:
        asked = asked_here.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            features = tower_features(model.model.vision_tower, pixel_values(images.to(device)))
            tokens = model.model.multi_modal_projector(features.float())
            start = language.embed_tokens(torch.tensor(prefix, device=device))
            head = torch.cat((start.expand(len(tokens), -1, -1), tokens.to(start.dtype)), dim=1)
            best = model.lm_head(forward_asked(language, head, asked)).argmax(-1)
        wrong = (best != asked.target) & (asked.target != IGNORED)
        for row in range(len(images)):
            for number in range(1, int(asked.segment[row].max()) + 1):
                mine = asked.segment[row] == number
                kind = QUESTION_KINDS[int(asked.kind[row][mine][0])]
                asked_of[kind] += 1
                right_of[kind] += int(not wrong[row][mine].any())
    shares = {kind: right_of[kind] / n for kind, n in asked_of.items() if n}
    return {"all": sum(right_of.values()) / sum(asked_of.values()), **shares}


def load_joined(model: Part, run: Run) -> Oracle:
    """The weights of the last stage into `model`; returns the oracle that they learnt from."""
    oracle = Oracle()
    modules: dict[str, nn.Module] = {
        **language_modules(model, oracle),
        "tower": model.model.vision_tower,
        "projector": model.model.multi_modal_projector,
    }
    load_modules(run.path("join"), modules)
    return oracle
