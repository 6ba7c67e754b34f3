# SPDX-License-Identifier: Apache-2.0
"""The runtime torch: models in transformers' classes, on the CPU or on CUDA; see `runtime`."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, cast

import torch

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.heap import give_back
from svd_vlm_ros.models.interface import LoadedModel
from svd_vlm_ros.models.loading import resolve_device
from svd_vlm_ros.models.options import ModelOptions
from svd_vlm_ros.models.registry import family_of
from svd_vlm_ros.models.runtime import LoadFacts
from svd_vlm_ros.models.weights.packed import pack
from svd_vlm_ros.models.weights.precision import quantized_layers, weight_bytes
from svd_vlm_ros.models.weights.precision_choice import check_wish, choose_precision
from svd_vlm_ros.selection import FeatureSelector, Selector, make_selector, selector_names
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.tiles import select_patches
from svd_vlm_ros.selection.values import QUESTION_NEEDS, Budget, Need, Selection


class TorchRuntime:
    """All families, all selectors, every precision."""

    name = "torch"

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
        """Load a model; `cpu_threads` are those of torch and of the kernels in this process."""
        if cpu_threads:
            torch.set_num_threads(cpu_threads)
        wish, place = check_wish(precision), resolve_device(device)
        family = family_of(model)
        choice = choose_precision(wish, family.sizes(model), place)
        loaded = family.load(
            model, precision=choice.precision, device=device, seed=seed, options=options
        )
        pack(loaded.model)
        give_back()
        return loaded, LoadFacts(
            precision=choice.precision,
            selectors=fitting_selectors(loaded.encoder().gives, loaded.prunes),
            weight_bytes=weight_bytes(loaded.model),
            quantized_layers=quantized_layers(loaded.model, loaded.components),
            advice=choice.advice,
        )

    def make_selector(self, name: str, **options: Any) -> Selector:
        """See `selection.make_selector`."""
        return make_selector(name, **options)

    def select(
        self, selector: FeatureSelector, features: VisualFeatures, budget: Budget
    ) -> Selection:
        """See `selection.tiles.select_patches`."""
        return select_patches(selector, features, budget)

    def everything(self, features: VisualFeatures) -> Selection:
        """Every patch as it is."""
        everything = torch.arange(len(features), device=features.patches.device)
        return Selection(everything, torch.full((len(features),), 1.0 / len(features)))

    def is_finite(self, features: VisualFeatures) -> bool:
        """Whether the vision encoder has not overflowed."""
        return bool(features.patches.isfinite().all())

    def computing(self) -> AbstractContextManager[Any]:
        """No gradients are kept."""
        return torch.inference_mode()

    def wait(self, device: torch.device) -> None:
        """On CUDA: or else only the asking would be timed."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def peak_memory_bytes(self, device: torch.device) -> int:
        """Of CUDA, since loading."""
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0

    def free(self) -> None:
        """What torch keeps of CUDA's memory."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def fitting_selectors(gives: frozenset[Need], prunes: bool) -> tuple[str, ...]:
    """The selectors that a model can run, the default first.

    Args:
        gives: what its vision encoder gives them.
        prunes: whether they can act inside its language model.
    """
    inside = selector_names("inside") if prunes else []
    before = []
    for name in selector_names("before"):
        with contextlib.suppress(UserError):  # another package's, which can't be loaded
            if cast(FeatureSelector, make_selector(name)).needs - QUESTION_NEEDS <= gives:
                before.append(name)
    return (*before, *inside)


RUNTIME = TorchRuntime()
