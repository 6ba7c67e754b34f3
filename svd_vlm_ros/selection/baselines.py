# SPDX-License-Identifier: Apache-2.0
"""`none`, which keeps everything, and the floors that every selector has to beat: they look at
little (`norm`) or nothing (`random`, `grid`) of what the image shows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import torch

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection.dither import even_scores
from svd_vlm_ros.selection.interface import Budget, Need, Selection, VisualFeatures, keep_highest


@dataclass(frozen=True)
class KeepAll:
    """Keep every patch, whatever the budget: the model as its authors made it.

    The one selector that also keeps patches of padding, so that the model sees exactly what
    transformers' own `LlavaForConditionalGeneration` would see.
    """

    name: ClassVar[str] = "none"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep all; the scores are 1 / n on the n valid patches."""
        device = features.patches.device
        valid = features.valid_indices()
        scores = torch.zeros(len(features), dtype=torch.float32, device=device)
        scores[valid] = 1.0 / len(valid)
        return Selection(torch.arange(len(features), device=device), scores)


@dataclass(frozen=True)
class RandomChoice:
    """Keep patches drawn at random, each as likely as any other.

    The draw depends on `seed` and on what the image shows, and on nothing else: the same image
    keeps the same patches on every machine that computes the same features, in any order of calls.
    """

    name: ClassVar[str] = "random"
    needs: ClassVar[frozenset[Need]] = frozenset()
    seed: int = 0

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Draw patches. The scores are the random numbers themselves, scaled to a sum of 1."""
        content = features.patches.to("cpu", torch.float32).contiguous().numpy()
        digest = hashlib.blake2b(content.tobytes(), digest_size=8, key=b"%d" % self.seed).digest()
        # Seeds of torch are 64 bit; the top bit is left out because they are signed.
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        drawn = torch.rand(len(features.valid_indices()), generator=generator, dtype=torch.float64)
        return keep_highest(drawn / drawn.sum(), features, budget)


@dataclass(frozen=True)
class UniformGrid:
    """Keep patches that are spread evenly over the image.

    The patches are ranked by a Bayer matrix (ordered dithering): every prefix of that ranking, of
    any length, covers the grid evenly, and a larger budget keeps what a smaller one keeps. Tiles
    have a matrix each, and the patches of one rank come before those of the next.
    """

    name: ClassVar[str] = "grid"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Spread patches. The scores fall linearly along the ranking."""
        grids = features.tiles or ((features.grid,) if features.grid else ())
        if not grids:
            raise UserError("The selector 'grid' needs patches that form grids.")
        scores = even_scores(grids, features.valid_indices().cpu().numpy())
        return keep_highest(torch.from_numpy(scores), features, budget)


@dataclass(frozen=True)
class RowNorm:
    """Keep the patches with the largest features, measured by their Euclidean norm."""

    name: ClassVar[str] = "norm"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep the largest. The scores are the norms, scaled to a sum of 1."""
        norms = features.patches[features.valid_indices()].to(torch.float64).norm(dim=1)
        total = norms.sum()
        if not float(total) > 0.0:
            norms, total = torch.ones_like(norms), norms.new_tensor(float(len(norms)))
        return keep_highest(norms / total, features, budget)
