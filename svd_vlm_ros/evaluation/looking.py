# SPDX-License-Identifier: Apache-2.0
"""One image for many cells: encoded once, then chosen from and asked about in every way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_vlm_ros import models
from svd_vlm_ros.engine import Answer, Scene, SceneEngine
from svd_vlm_ros.models.images import Framing, TiledFraming
from svd_vlm_ros.selection import LayerSelector, Need, VisualFeatures, make_selector


def relevance_of(model: str) -> str:
    """The space in which selectors compare image and question: "clip", or "words".

    Many models come without a text tower: there it is the language model's own word embeddings.
    """
    return models.family_of(model).relevance(model)


def selector_options(name: str, model: str, seed: int) -> dict[str, Any]:
    """A selector's options for a model: the run's seed, the space of `relevance_of`."""
    fields = getattr(type(make_selector(name)), "__dataclass_fields__", {})
    if "seed" in fields:
        return {"seed": seed}
    return {"relevance": relevance_of(model)} if "relevance" in fields else {}


@dataclass(frozen=True, eq=False)
class Looked:
    """An image that was encoded, for one engine."""

    shape: tuple[int, int, int]
    features: VisualFeatures
    framing: Framing | TiledFraming


def look(
    engine: SceneEngine, image: np.ndarray, selectors: Mapping[str, Mapping[str, Any]]
) -> Looked:
    """Encode an image with all that some selectors need. `UserError`: it can't be used.

    Args:
        engine: of the model.
        image: uint8 [H, W, 3], RGB.
        selectors: names with their options.
    """
    needs: frozenset[Need] = frozenset()
    for name, options in selectors.items():
        selector = make_selector(name, **options)
        if not isinstance(selector, LayerSelector):
            needs |= selector.needs
    shape = (image.shape[0], image.shape[1], image.shape[2])
    return Looked(shape, engine.features(image, needs), engine.framing(image))


def see(engine: SceneEngine, looked: Looked) -> Scene:
    """A scene by the selector that the engine uses now. `UserError`: it can't do this image."""
    return engine.see_features(looked.features, looked.framing, looked.shape)


def tokens_read(scene: Scene, answer: Answer) -> float:
    """Visual tokens that an answer read: the mean over the language model's layers."""
    if answer.layer_tokens:
        return sum(answer.layer_tokens) / len(answer.layer_tokens)
    return float(scene.tokens_kept)
