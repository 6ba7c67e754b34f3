# SPDX-License-Identifier: Apache-2.0
"""The runtime onnx: exported models in onnxruntime, without torch; see `models.runtime`.

The protocols name tensors. Here NumPy's arrays are in their places, which the engine hands on
without a look: hence the casts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from svd_vlm_ros.models.options import ModelOptions
from svd_vlm_ros.models.runtime import LoadFacts
from svd_vlm_ros.onnx_runtime.model import load_export
from svd_vlm_ros.onnx_runtime.selectors import SELECTORS, Selection, make_selector

if TYPE_CHECKING:
    from svd_vlm_ros import selection
    from svd_vlm_ros.models.interface import LoadedModel


class OnnxRuntime:
    """LLaVA-1.5 as it was exported, the selectors of `selectors`, the precision of the export."""

    name = "onnx"

    def load(
        self,
        model: str,
        *,
        precision: str,
        device: str,
        cpu_threads: int,
        seed: int,
        options: ModelOptions,
    ) -> tuple[LoadedModel, LoadFacts]:
        """Load an exported folder; see `load_export`. Its weights are there: `seed` is not used."""
        loaded = load_export(
            Path(model).expanduser(),
            precision=precision,
            device=device,
            cpu_threads=cpu_threads,
            options=options,
        )
        facts = LoadFacts(loaded.precision, SELECTORS, loaded.weight_bytes)
        return cast("LoadedModel", loaded), facts

    def make_selector(self, name: str, **options: Any) -> selection.Selector:
        """See `selectors.make_selector`."""
        return make_selector(name, **options)

    def select(
        self,
        selector: selection.FeatureSelector,
        features: selection.VisualFeatures,
        budget: selection.Budget,
    ) -> selection.Selection:
        """An image is one grid: no exported family has tiles."""
        return selector(features, budget)

    def everything(self, features: selection.VisualFeatures) -> selection.Selection:
        """Every patch as it is."""
        count = len(features)
        everything = Selection(np.arange(count), np.full(count, 1.0 / count, dtype=np.float32))
        return cast("selection.Selection", everything)

    def is_finite(self, features: selection.VisualFeatures) -> bool:
        """Whether the vision graph has not overflowed."""
        return bool(np.isfinite(np.asarray(features.patches)).all())

    def computing(self) -> AbstractContextManager[Any]:
        """Nothing is to be entered."""
        return nullcontext()

    def wait(self, device: Any) -> None:
        """A run has ended when it returns."""

    def peak_memory_bytes(self, device: Any) -> int:
        """Onnxruntime does not tell."""
        return 0

    def free(self) -> None:
        """A session's memory goes with it."""


RUNTIME = OnnxRuntime()
