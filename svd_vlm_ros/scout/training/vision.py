# SPDX-License-Identifier: Apache-2.0
"""First stage: the vision tower learns what each patch shows, from the renderer's own labels.

Crowded scenes carry three times the object patches of the world's normal ones, so they teach
faster; they make up most of the stage's first half. Most background patches are left out of the
sequence then (as FLIP does), which halves the cost of an image; the last part of the stage sees
every patch.

CLS learns what the image shows, as CLIP's CLS does from captions. Scout's answers never
use it, but the selectors that ask what CLS attends to would find nothing in an untrained one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..architecture import VISION_WIDTH
from ..labels import ATTRIBUTES, CLASSES, GROUPS, MEASURED, patch_labels, waves
from ..render import render
from ..world import COLORS, GROUNDS, KINDS, SKIES, sample_scene
from .common import Part, Run, pixel_values, train, training_seed

BATCH = 24
SPARSE_PATCHES = 224  # patches that an image of the first part of the stage shows to the tower
SPARSE_UNTIL = 0.75  # share of the stage
POOL, USES = (
    1200,
    3,
)  # drawing a scene costs as much as learning from it, so each is shown about three times
GROUP_WEIGHT = {"shown": 1.0, "color": 1.0, "side": 0.3, "blocks": 0.4, "tens": 0.6, "ones": 0.6}
GROUP_WEIGHT |= {"ground": 0.3, "sky": 0.3, "anchor": 0.3}


class PatchHead(nn.Module):
    """Reads a patch's attributes off its features: [..., 192] to [..., ATTRIBUTES]."""

    def __init__(self, width: int = VISION_WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, ATTRIBUTES)

    def forward(self, features: Tensor) -> Tensor:
        """Features [..., 192] to attributes [..., ATTRIBUTES]."""
        return self.out(self.norm(features))


NAMES = len(KINDS) * len(COLORS)
CAPTION = NAMES + len(GROUNDS) + len(SKIES)
CAPTION_WEIGHT = 4.0  # the mean is taken over many names, most of them plainly absent


class CaptionHead(nn.Module):
    """Reads off CLS what an image shows: [..., 192] to the logits of `CAPTION` things, coloured
    objects first.
    """

    def __init__(self, width: int = VISION_WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, CAPTION)
        nn.init.constant_(self.out.bias, -3.0)  # most things are not in most images

    def forward(self, cls: Tensor) -> Tensor:
        """CLS rows [..., 192] to logits [..., CAPTION]."""
        return self.out(self.norm(cls))


def caption(classes: Tensor) -> Tensor:
    """What each of B images shows, from its patches' labels: int64 [B, 576, groups] to float
    [B, CAPTION] of 0 and 1.
    """
    kind, color, ground, sky = classes[..., 0], classes[..., 1], classes[..., 6], classes[..., 7]
    shown = classes.new_zeros((len(classes), CAPTION + 1), dtype=torch.float32)
    nothing = torch.full_like(kind, CAPTION)  # a column that is cut off
    for index in (
        torch.where(kind < len(KINDS), kind * len(COLORS) + color, nothing),
        torch.where(ground < len(GROUNDS), NAMES + ground, nothing),
        torch.where(sky < len(SKIES), NAMES + len(GROUNDS) + sky, nothing),
    ):
        shown.scatter_(1, index, 1.0)
    return shown[:, :CAPTION]


class SceneImages(IterableDataset):
    """An endless stream of (image, classes, measures), drawn from a pool that is renewed as it
    goes.
    """

    def __init__(self, seed: int, crowded: float) -> None:
        self.seed = seed
        self.crowded = crowded

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        info = get_worker_info()
        worker, step = (info.id if info else 0), 0
        rng = np.random.default_rng((worker, self.seed, 3))
        pool: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        while True:
            if len(pool) < POOL:
                pool.append(self._draw(training_seed(worker, step, self.seed), rng))
                image, classes, measures = pool[-1]
                step += 1
            else:
                index = int(rng.integers(POOL))
                image, classes, measures = pool[index]
                if rng.random() < 1 / USES:
                    pool[index] = pool[-1]
                    pool.pop()
            yield roughen(image, rng), classes, measures

    def _draw(
        self, seed: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if rng.random() < self.crowded:
            scene = sample_scene(seed, objects=(7, 20), signs=0.4)
        else:
            scene = sample_scene(seed, objects=(2, 7), signs=0.15)
        labels = patch_labels(scene)
        return render(scene), labels.classes, labels.measures


def roughen(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Now and then what a camera's path does to an image: JPEG, a little blur, a change of
    contrast.
    """
    if rng.random() < 0.12:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96))]
        image = np.asarray(
            cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_UNCHANGED)
        )
    if rng.random() < 0.08:
        image = cv2.GaussianBlur(image, (3, 3), float(rng.uniform(0.4, 0.9)))
    if rng.random() < 0.15:
        image = cv2.convertScaleAbs(
            image, alpha=float(rng.uniform(0.85, 1.15)), beta=float(rng.uniform(-12, 12))
        )
    return image


def loader(dataset: IterableDataset, batch: int, workers: int) -> Iterator:
    """Endless batches of a data set, drawn by `workers` processes beside the training."""
    return iter(
        DataLoader(
            dataset, batch_size=batch, num_workers=workers, prefetch_factor=4 if workers else None
        )
    )


def tower_features(tower: Part, pixels: Tensor) -> Tensor:
    """Layer -2 of the tower without CLS: float [B, 3, 336, 336] to [B, 576, 192]."""
    return tower_rows(tower, pixels)[:, 1:]


def tower_rows(tower: Part, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
    """Layer -2 of the tower, CLS first.

    pixels: float [B, 3, 336, 336]; keep: int64 [B, K], patches that are shown to it, or None for
    all. Returns [B, 1 + (K or 576), 192].
    """
    hidden = tower.embeddings(pixels)
    if keep is not None:
        rows = keep[..., None].expand(-1, -1, hidden.shape[-1])
        hidden = torch.cat((hidden[:, :1], hidden[:, 1:].gather(1, rows)), dim=1)
    hidden = tower.pre_layrnorm(hidden)
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None)
    return hidden


def attribute_loss(
    out: Tensor, classes: Tensor, measures: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of every label that applies, and the squared error of the measures.

    out: [N, ATTRIBUTES], classes: int64 [N, groups], measures: float [N, 5].
    """
    thing = classes[:, 0] < len(KINDS)
    total = out.new_zeros(())
    figures: dict[str, float] = {}
    start = 0
    for i, (name, count) in enumerate(GROUPS):
        logits, target = out[:, start : start + count], classes[:, i]
        start += count
        if name == "shown":
            weight = 1.0 + 3.0 * thing
            total = total + (F.cross_entropy(logits, target, reduction="none") * weight).mean()
            right = logits.argmax(1) == target
            figures["kind"] = right[thing].float().mean().item()
            continue
        applies = target != count - 1 if name != "anchor" else thing
        if applies.any():
            loss = F.cross_entropy(logits[applies], target[applies])
            total = total + GROUP_WEIGHT[name] * loss
            if name in ("color", "tens", "ones", "blocks", "side"):
                right = logits[applies].argmax(1) == target[applies]
                figures[name] = right.float().mean().item()
    waved = torch.from_numpy(waves(measures.cpu().numpy())).to(out.device)
    error = (out[:, CLASSES : CLASSES + MEASURED] - waved).square()
    total = total + 0.5 * error[thing].mean() + 0.1 * error.mean()
    figures["place"] = error[thing].mean().item()
    return total, figures


def sparse_choice(classes: Tensor, count: int) -> Tensor:
    """`count` patches an image, objects first, the rest at random: int64 [B, count]."""
    score = torch.rand(classes.shape[:2], device=classes.device)
    score += 2.0 * (classes[..., 0] < len(KINDS))
    return score.topk(count, dim=1).indices


def train_vision(model: Part, run: Run, crowded: float = 0.75, rate: float = 1.2e-3) -> None:
    """Trains `model`'s tower, and two heads that read the labels off patches and off CLS.

    Args:
        model: scout.
        run: for how long, and where to.
        crowded: share of the images with many objects.
        rate: the tower's peak learning rate; lower for one that knows something already.
    """
    tower, head, caption_head = model.model.vision_tower, PatchHead(), CaptionHead()
    for part in (tower, head, caption_head):
        part.to(run.device)
    held_out = _held_out_batch(run.device)

    def losses(batch: Any, keep: Tensor | None) -> tuple[Tensor, dict[str, float]]:
        images, classes, measures = batch
        shows = caption(classes)
        if keep is not None:
            classes = classes.gather(1, keep[..., None].expand(-1, -1, classes.shape[-1]))
            measures = measures.gather(1, keep[..., None].expand(-1, -1, measures.shape[-1]))
        with torch.autocast(run.device.type, torch.bfloat16):
            rows = tower_rows(tower, pixel_values(images), keep)
            out, captions = head(rows[:, 1:]).float(), caption_head(rows[:, 0]).float()
        loss, figures = attribute_loss(
            out.flatten(0, 1), classes.flatten(0, 1), measures.flatten(0, 1)
        )
        figures["caption"] = ((captions > 0) == (shows > 0)).all(dim=1).float().mean().item()
        captioned = F.binary_cross_entropy_with_logits(captions, shows)
        return loss + CAPTION_WEIGHT * captioned, figures

    def step(batch: Any, share: float) -> tuple[Tensor, dict[str, float]]:
        found = tuple(x.to(run.device) for x in batch)
        sparse = share < SPARSE_UNTIL
        return losses(found, sparse_choice(found[1], SPARSE_PATCHES) if sparse else None)

    @torch.no_grad()
    def validate() -> dict[str, float]:
        return {f"new {name}": value for name, value in losses(held_out, None)[1].items()}

    batches = loader(SceneImages(run.seed, crowded), BATCH, run.workers)
    modules: dict[str, nn.Module] = {"tower": tower, "head": head, "caption": caption_head}
    rates = {"tower": rate, "head": 1.2e-3, "caption": 1.2e-3}
    train("vision", run, modules, rates, batches, step, validate)


def _held_out_batch(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """24 normal scenes with seeds just below the held-out ones, which training never reaches
    either.
    """
    scenes = [sample_scene(9_990_000 + i) for i in range(24)]
    labels = [patch_labels(scene) for scene in scenes]
    return (
        torch.from_numpy(np.stack([render(scene) for scene in scenes])).to(device),
        torch.from_numpy(np.stack([x.classes for x in labels])).to(device),
        torch.from_numpy(np.stack([x.measures for x in labels])).to(device),
    )
