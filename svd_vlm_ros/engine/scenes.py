# SPDX-License-Identifier: Apache-2.0
"""The engine's first half: from an image to a `Scene`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from svd_vlm_ros.engine.values import (
    PendingPruning,
    PendingSelection,
    Scene,
    SceneTimings,
    Stopwatch,
)
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.images import Framing, ProcessedImage, TiledFraming
from svd_vlm_ros.models.runtime import Runtime
from svd_vlm_ros.selection import (
    Budget,
    EncoderSelector,
    LayerSelector,
    Need,
    Selection,
    Selector,
    looks_at_question,
)
from svd_vlm_ros.selection.values import QUESTION_NEEDS

if TYPE_CHECKING:
    import numpy as np

    from svd_vlm_ros.models.interface import (
        Compare,
        LanguageModel,
        LoadedModel,
        Prefix,
        VisionEncoder,
    )
    from svd_vlm_ros.selection import VisualFeatures
    from svd_vlm_ros.selection.relevance import TextRelevance


@dataclass(frozen=True, eq=False)
class SelectorInUse:
    """A selector that fits a model, with what it takes to compare patches with a question.

    Attributes:
        needs: what the vision encoder has to give it beyond the patches.
        shareable: whether it looks at the image alone, so that questions can share a scene.
    """

    selector: Selector
    compare: Compare | None
    needs: frozenset[Need]
    shareable: bool

    @classmethod
    def of(
        cls,
        selector: Selector,
        loaded: LoadedModel,
        encoder: VisionEncoder,
        layers: int,
        total: int,
        budget: Budget,
    ) -> SelectorInUse:
        """Make ready.

        Args:
            selector: of any kind.
            loaded, encoder: the model.
            layers: of its language model.
            total: patches of an image.
            budget: the standard one.

        Raises:
            UserError: the budget, or what the selector needs, can't be had.
        """
        if isinstance(selector, LayerSelector):
            selector.plan(layers, total, budget)
            return cls(selector, None, frozenset(), False)
        needs = selector.needs - QUESTION_NEEDS
        compare = None
        if "image_text" in selector.needs:
            compare = loaded.compare(cast("TextRelevance", selector))
        return cls(selector, compare, needs, not looks_at_question(selector))


class SceneMaker:
    """Looks at images: preprocess, encode, select, project. The system prompt is read once."""

    def __init__(
        self,
        runtime: Runtime,
        loaded: LoadedModel,
        encoder: VisionEncoder,
        language: LanguageModel,
        before: tuple[int, ...],
        aspect: str,
        watch: Callable[[], Stopwatch],
    ) -> None:
        self.connector = loaded.connector()
        self._runtime, self._watch = runtime, watch
        self._encoder, self._language = encoder, language
        self._images, self._dtype = loaded.images, str(loaded.dtype).removeprefix("torch.")
        self._before, self._aspect = before, aspect
        self._system: Prefix | None = None

    def begin_with(self, before: tuple[int, ...]) -> None:
        """Put other tokens in front of every image from now on."""
        self._before, self._system = before, None

    def see(self, image: np.ndarray, chosen: SelectorInUse, budget: Budget) -> Scene:
        """Look at an image, uint8 [H, W, 3] RGB, that was checked."""
        watch = self._watch()
        processed = self.process(image)
        preprocess_seconds = watch.lap()
        features = self.encode(processed, chosen.needs, chosen.selector, budget)
        shape = image.shape[0], image.shape[1], image.shape[2]
        times = preprocess_seconds, watch.lap()
        return self.scene(features, chosen, budget, processed.framing, shape, watch, times)

    def process(self, image: np.ndarray) -> ProcessedImage:
        """Pixels for the encoder, and where its patches lie in the image."""
        return self._images(image, self._aspect)

    def encode(
        self,
        image: ProcessedImage,
        needs: frozenset[Need] = frozenset(),
        selector: Selector | None = None,
        budget: Budget | None = None,
    ) -> VisualFeatures:
        """What the encoder sees, and what was needed of it; see `VisionEncoder`."""
        inside = selector if isinstance(selector, EncoderSelector) else None
        needs = needs - QUESTION_NEEDS
        _check_needs(self._encoder, needs, "a selector")
        features = self._encoder(image, needs, inside, budget)
        if not self._runtime.is_finite(features):
            raise UserError(
                f"The vision tower overflows in {self._dtype} on this image: take bf16."
            )
        return features

    def scene(
        self,
        features: VisualFeatures,
        chosen: SelectorInUse,
        budget: Budget,
        framing: Framing | TiledFraming,
        image_shape: tuple[int, int, int],
        watch: Stopwatch,
        times: tuple[float, float] = (0.0, 0.0),
    ) -> Scene:
        """From features to a scene; `times` are the seconds of preprocessing and encoding."""
        prefix: Prefix | None = None
        pending: PendingSelection | PendingPruning | None = None
        selection: Selection | None = None
        select_seconds = project_seconds = 0.0
        system, prefill_seconds = self._system_prompt(watch)
        selector = chosen.selector
        if isinstance(selector, LayerSelector):
            plan = selector.plan(self._language.layers, len(features), budget)
            visual = self.connector(features, self._runtime.everything(features))
            pending = PendingPruning(selector, budget, visual, system, len(visual))
            project_seconds = watch.lap()
            kept = round(plan.average)
        elif not chosen.shareable:
            kept = min(budget.tokens, len(features.valid_indices()))
            room = self.connector.room(features, kept)
            pending = PendingSelection(selector, budget, features, chosen.compare, system, room)
        else:
            selection = self._runtime.select(selector, features, budget)
            select_seconds = watch.lap()
            visual = self.connector(features, selection)
            project_seconds = watch.lap()
            prefix = self._language.extend(system, visual)
            kept = len(selection)
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
                prefill=prefill_seconds,
            ),
        )

    def _system_prompt(self, watch: Stopwatch) -> tuple[Prefix, float]:
        """What stands in front of every image, and the seconds of reading it, with the first."""
        if self._system is not None:
            return self._system, 0.0
        watch.lap()
        self._system = self._language.prefill(self._language.embed(self._before))
        return self._system, watch.lap()


def _check_needs(encoder: VisionEncoder, needs: frozenset[Need], who: str) -> None:
    if missing := sorted(needs - encoder.gives):
        raise UserError(
            f"The vision encoder of this model does not give '{missing[0]}', which {who} needs: "
            "take another selector."
        )
