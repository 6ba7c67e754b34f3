# SPDX-License-Identifier: Apache-2.0
"""The methods in NumPy. What each is, its paper and its readings: the class of the same name in
`selection/`; the same features give the same indices.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.onnx_runtime.selectors.features import Selection, VisualFeatures
from svd_vlm_ros.onnx_runtime.selectors.rules import (
    class_token_attention,
    gram,
    keep_all,
    keep_highest,
    keep_set,
    rows_of,
    to_cosines,
)
from svd_vlm_ros.selection.dither import even_scores
from svd_vlm_ros.selection.greedy import greedy_coverage, greedy_diversity
from svd_vlm_ros.selection.ranking import needed, tokens_of
from svd_vlm_ros.selection.values import Budget, Need

_NOTHING: frozenset[Need] = frozenset()


@dataclass(frozen=True)
class KeepAll:
    """Keep every patch, whatever the budget, those of padding among them."""

    name: ClassVar[str] = "none"
    needs: ClassVar[frozenset[Need]] = _NOTHING

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep all; the scores are 1 / n on the n valid patches."""
        valid = features.valid_indices()
        scores = np.zeros(len(features), dtype=np.float32)
        scores[valid] = 1.0 / len(valid)
        return Selection(np.arange(len(features)), scores)


@dataclass(frozen=True)
class RandomChoice:
    """Keep patches drawn at random, by `seed` and by what the image shows."""

    name: ClassVar[str] = "random"
    needs: ClassVar[frozenset[Need]] = _NOTHING
    seed: int = 0

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Draw patches. The scores are the random numbers themselves, scaled to a sum of 1."""
        content = np.ascontiguousarray(features.patches, dtype=np.float32)
        digest = hashlib.blake2b(content.tobytes(), digest_size=8, key=b"%d" % self.seed).digest()
        seed = int.from_bytes(digest, "little") >> 1
        drawn = uniform(seed, len(features.valid_indices()))
        return keep_highest(drawn / drawn.sum(), features, budget)


@dataclass(frozen=True)
class UniformGrid:
    """Keep patches that are spread evenly over the image."""

    name: ClassVar[str] = "grid"
    needs: ClassVar[frozenset[Need]] = _NOTHING

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Spread patches. The scores fall linearly along the ranking."""
        if features.grid is None:
            raise UserError("The selector 'grid' needs patches that form grids.")
        scores = even_scores([features.grid], features.valid_indices())
        return keep_highest(scores, features, budget)


@dataclass(frozen=True)
class RowNorm:
    """Keep the patches with the largest features, measured by their Euclidean norm."""

    name: ClassVar[str] = "norm"
    needs: ClassVar[frozenset[Need]] = _NOTHING

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep the largest. The scores are the norms, scaled to a sum of 1."""
        norms = np.linalg.norm(rows_of(features.patches, features), axis=1)
        total = norms.sum()
        if not total > 0.0:
            norms, total = np.ones_like(norms), float(len(norms))
        return keep_highest(norms / total, features, budget)


@dataclass(frozen=True)
class Hired:
    """HiRED (arXiv 2408.10945): keep what the class token looks at the most."""

    name: ClassVar[str] = "hired"
    needs: ClassVar[frozenset[Need]] = frozenset({"class_attention"})

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what the class token looks at."""
        return keep_highest(class_token_attention(features, self.name), features, budget)


@dataclass(frozen=True)
class DivPrune:
    """DivPrune (arXiv 2503.02175): the max-min diversity of projected tokens, greedily."""

    name: ClassVar[str] = "divprune"
    needs: ClassVar[frozenset[Need]] = frozenset({"projected"})

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what differs. The scores are the distances at which patches were taken."""
        tokens = tokens_of(budget, self.name)
        projected = needed(features.projected, "projected", self.name)
        if tokens >= len(features.valid_indices()):
            return keep_all(features)
        cosines = to_cosines(gram(rows_of(projected, features)))
        kept, worth = greedy_diversity(1.0 - cosines, tokens)
        return keep_set(features, np.array(kept), worth)


@dataclass(frozen=True)
class Scope:
    """SCOPE (NeurIPS 2025): coverage, weighted by the class token's attention."""

    name: ClassVar[str] = "scope"
    needs: ClassVar[frozenset[Need]] = frozenset({"class_attention"})

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Keep what covers. The scores are the gains."""
        tokens = tokens_of(budget, self.name)
        looks = class_token_attention(features, self.name)
        if tokens >= len(looks):
            return keep_all(features, looks)
        cosines = to_cosines(gram(rows_of(features.patches, features)))
        kept, gains = greedy_coverage(cosines, tokens, looks)
        return keep_set(features, np.array(kept), gains)


def uniform(seed: int, count: int) -> np.ndarray:
    """The numbers of `torch.rand(count, dtype=float64)` on the CPU: float64 [count], below 1.

    Args:
        seed: of a `torch.Generator`, whose Mersenne Twister takes its lower 32 bits.
        count: how many.
    """
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    words = twister.randint(0, 1 << 32, size=2 * count, dtype=np.uint32).astype(np.uint64)
    # Two words a number, the first the higher one; of these 64 bits the lower 53 are taken.
    bits = ((words[::2] << np.uint64(32)) | words[1::2]) & np.uint64((1 << 53) - 1)
    numbers: np.ndarray = bits * 2.0**-53
    return numbers
