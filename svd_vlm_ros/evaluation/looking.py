# SPDX-License-Identifier: Apache-2.0
"""One picture for many cells: encoded once, then chosen from and asked about in every way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_vlm_ros.engine import Answer, Scene, SceneEngine
from svd_vlm_ros.evaluation.cells import Cell
from svd_vlm_ros.selection import make_selector
from svd_vlm_ros.selection.features import VisualFeatures


def relevance_of(model: str) -> str:
    """The space in which selectors compare picture and question: "clip", or "words".

    Scout and random models have no CLIP text tower: there it is the language model's own word
    embeddings.
    """
    return "words" if model == "scout" or model.startswith("random:") else "clip"


def selector_options(name: str, model: str, seed: int) -> dict[str, Any]:
    """What a selector is told, for a model: the run's seed, the space of `relevance_of`."""
    fields = getattr(type(make_selector(name)), "__dataclass_fields__", {})
    if "seed" in fields:
        return {"seed": seed}
    return {"relevance": relevance_of(model)} if "relevance" in fields else {}


@dataclass(frozen=True, eq=False)
class Looked:
    """A picture that was encoded, for one engine."""

    image: np.ndarray
    features: VisualFeatures
    framing: Any


def look(engine: SceneEngine, image: np.ndarray, selectors: Sequence[str]) -> Looked:
    """Encode a picture with all that some selectors want to know. `UserError`: it can't be used."""
    picture = engine._frame(image)
    return Looked(image, engine._look(picture), picture.framing)


def see(engine: SceneEngine, looked: Looked, cell: Cell, options: dict[str, Any]) -> Scene:
    """A scene as a cell wants it. `UserError`: the selector or its budget is impossible here."""
    engine.use_selector(cell.selector, visual_tokens=cell.tokens, **options)
    shape = looked.image.shape
    return engine.see_features(looked.features, looked.framing, (shape[0], shape[1], shape[2]))


def tokens_read(scene: Scene, answer: Answer) -> float:
    """Visual tokens that an answer read: the mean over the language model's layers."""
    if answer.layer_tokens:
        return sum(answer.layer_tokens) / len(answer.layer_tokens)
    return float(scene.tokens_kept)
