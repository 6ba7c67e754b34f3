# SPDX-License-Identifier: Apache-2.0
"""What a runtime is: what loads a model of a family and computes with it.

`torch_runtime` is one, `svd_vlm_ros.onnx_runtime` another. The engine knows this protocol and those
of `interface`; the arrays between them are the runtime's own (tensors, or NumPy's), and the engine
hands them on. No torch in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from svd_vlm_ros.models.options import ModelOptions

if TYPE_CHECKING:
    from svd_vlm_ros.models.interface import LoadedModel
    from svd_vlm_ros.selection import FeatureSelector, Selector
    from svd_vlm_ros.selection.features import VisualFeatures
    from svd_vlm_ros.selection.values import Budget, Selection


@dataclass(frozen=True)
class LoadFacts:
    """What is known of a model once it is loaded, beside `LoadedModel`; see `EngineInfo`."""

    precision: str
    selectors: tuple[str, ...]
    weight_bytes: int
    quantized_layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    advice: str = ""


class Runtime(Protocol):
    """Loads models and computes with them.

    Attributes:
        name: "torch" or "onnx".
    """

    @property
    def name(self) -> str: ...  # noqa: D102

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
        """Load a model; see `SceneEngine.load`. `UserError`: it can't be had, or not so."""
        ...

    def make_selector(self, name: str, **options: Any) -> Selector:
        """See `svd_vlm_ros.selection.make_selector`. `UserError`: this runtime has none such."""
        ...

    def select(
        self, selector: FeatureSelector, features: VisualFeatures, budget: Budget
    ) -> Selection:
        """Choose patches of an image, of its tiles and thumbnail apart if it has any."""
        ...

    def everything(self, features: VisualFeatures) -> Selection:
        """Every patch as it is."""
        ...

    def is_finite(self, features: VisualFeatures) -> bool:
        """Whether the patches' features are numbers."""
        ...

    def computing(self) -> AbstractContextManager[Any]:
        """What is entered while a model computes."""
        ...

    def wait(self, device: Any) -> None:
        """Wait until a device has done what it was asked for, so that it can be timed."""
        ...

    def peak_memory_bytes(self, device: Any) -> int:
        """The most memory of a device that was in use; 0 on a CPU, or if that is not known."""
        ...

    def free(self) -> None:
        """Give memory back to the device that is kept for later."""
        ...
