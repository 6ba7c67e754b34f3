# SPDX-License-Identifier: Apache-2.0
"""The engine's first half: from a picture to a `Scene`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from svd_vlm_ros.engine.values import Pending, Scene, SceneTimings, Stopwatch
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.language.cache import Prefix
from svd_vlm_ros.models.language.model import LanguageModel
from svd_vlm_ros.models.llava.architecture import text_config
from svd_vlm_ros.models.llava.clip_text import Compare, load_relevance
from svd_vlm_ros.models.llava.loading import LoadedLlava
from svd_vlm_ros.models.llava.preprocess import Framing, Picture, preprocess
from svd_vlm_ros.models.llava.projector import Projector
from svd_vlm_ros.models.llava.vision import VisionTower
from svd_vlm_ros.selection import Budget, Need, Selection, VisualFeatures, looks_at_question
from svd_vlm_ros.selection.features import QUESTION_NEEDS


@dataclass(frozen=True, eq=False)
class Rule:
    """A selector in use, with what it takes to compare patches with a question."""

    selector: Any
    compare: Compare | None

    @classmethod
    def of(cls, selector: Any, loaded: LoadedLlava, total: int, budget: Budget) -> Rule:
        """Make ready; raises `UserError` where the budget or a model can't be had.

        Args:
            selector: before or inside the language model.
            loaded: the model.
            total: patches of a picture.
            budget: the standard one.
        """
        compare = None
        if getattr(selector, "inside", False):
            layers = text_config(loaded.model.config).num_hidden_layers
            selector.plan(layers, total, budget)
        elif "image_text" in selector.needs:
            compare = load_relevance(selector, loaded.device, loaded.dtype)
        return cls(selector, compare)

    @property
    def inside(self) -> bool:
        """Whether it acts between the layers of the language model."""
        return bool(getattr(self.selector, "inside", False))

    @property
    def shareable(self) -> bool:
        """Whether it looks at the picture alone, so that questions can share a scene."""
        return not self.inside and not looks_at_question(self.selector)

    @property
    def needs(self) -> frozenset[Need]:
        """What the tower has to give it beyond the patches."""
        return frozenset() if self.inside else self.selector.needs - QUESTION_NEEDS


class Looker:
    """Looks at pictures: preprocess, encode, select, project. The system prompt is read once."""

    def __init__(
        self, loaded: LoadedLlava, language: LanguageModel, before: Sequence[int], aspect: str
    ) -> None:
        self.projector = Projector(loaded.model)
        self._vision = VisionTower(loaded.model)
        self._language = language
        self._pictures, self._dtype = loaded.pictures, str(loaded.dtype).removeprefix("torch.")
        self._device = loaded.device
        self._before, self._aspect = before, aspect
        self._system: Prefix | None = None

    @property
    def system(self) -> Prefix:
        """What stands in front of every picture; read when it is first asked for."""
        if self._system is None:
            self._system = self._language.read(self._language.embed(self._before))
        return self._system

    def begin_with(self, before: Sequence[int]) -> None:
        """Put other tokens in front of every picture from now on."""
        self._before, self._system = before, None

    def see(self, image: np.ndarray, rule: Rule, budget: Budget) -> Scene:
        """Look at a picture, uint8 [H, W, 3] RGB, that was checked."""
        watch = Stopwatch(self._device)
        picture = self.frame(image)
        preprocess_seconds = watch.lap()
        features = self.look(picture, rule.needs, rule.selector, budget)
        shape = image.shape[0], image.shape[1], image.shape[2]
        times = preprocess_seconds, watch.lap()
        return self.scene(features, rule, budget, picture.framing, shape, watch, times)

    def frame(self, image: np.ndarray) -> Picture:
        """Pixels for the tower, and where its patches lie in the picture."""
        return preprocess(image, self._pictures, self._aspect)

    def look(
        self,
        picture: Picture,
        needs: frozenset[Need] = frozenset(),
        selector: Any = None,
        budget: Budget | None = None,
    ) -> VisualFeatures:
        """What the tower sees, and what was needed of it; see `VisionTower`."""
        features = self._vision(picture, needs - QUESTION_NEEDS, selector, budget)
        if not bool(features.patches.isfinite().all()):
            raise UserError(
                f"The vision tower overflows in {self._dtype} on this picture: take bf16."
            )
        return features

    def scene(
        self,
        features: VisualFeatures,
        rule: Rule,
        budget: Budget,
        framing: Framing,
        image_shape: tuple[int, int, int],
        watch: Stopwatch,
        times: tuple[float, float] = (0.0, 0.0),
    ) -> Scene:
        """From features to a scene; `times` are the seconds of preprocessing and encoding."""
        prefix: Prefix | None = None
        pending: Pending | None = None
        selection: Selection | None = None
        select_seconds = project_seconds = 0.0
        selector = rule.selector
        if rule.inside:
            plan = selector.plan(self._language.layers, len(features), budget)
            everything = torch.arange(len(features), device=features.patches.device)
            all_of_it = Selection(everything, torch.full((len(features),), 1.0 / len(features)))
            projected = self.projector(features, all_of_it)
            pending = Pending(selector, budget, features, None, projected, self.system)
            project_seconds = watch.lap()
            kept = round(plan.average)
        elif not rule.shareable:
            pending = Pending(selector, budget, features, rule.compare, None, self.system)
            kept = min(budget.tokens, len(features.valid_indices()))
        else:
            selection = selector(features, budget)
            select_seconds = watch.lap()
            tokens = self.projector(features, selection)
            project_seconds = watch.lap()
            prefix = self._language.later(tokens.to(self._language.decoder.dtype), self.system)
            kept = len(tokens)
        return Scene(
            selection=selection,
            tokens_kept=kept,
            tokens_total=len(features),
            grid=features.grid,
            image_shape=image_shape,
            framing=framing,
            prefix=prefix,
            pending=pending,
            timings=SceneTimings(
                preprocess=times[0],
                encode=times[1],
                select=select_seconds,
                project=project_seconds,
                prefill=watch.lap() if prefix else 0.0,
            ),
        )
