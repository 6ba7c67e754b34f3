# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5: CLIP's vision tower, a projector of two layers, Llama. All that is its own is here.

`architecture` says which checkpoints can run, `loading` brings the weights into memory, `random`
makes them up. `preprocess`, `vision` and `prompt` are stages of the paper, as is the projector that
families share; `clip_text` compares a question with what the tower saw. Importing this package
imports no torch; its modules do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from svd_vlm_ros.models.files import SCOUT, is_random
from svd_vlm_ros.models.llava.architecture import check_architecture

if TYPE_CHECKING:
    from svd_vlm_ros.models.interface import LoadedModel, ModelOptions
    from svd_vlm_ros.planning.shapes import ModelSizes
    from svd_vlm_ros.selection.relevance import TextRelevance


class LlavaFamily:
    """The family, as `models.registry` knows it."""

    model_type = "llava"
    random_models = ("random:tiny", "random:llava-1.5-7b")

    def is_random(self, name: str) -> bool:
        """Whether a name is one of `random_models`, or the latter with fewer layers."""
        from svd_vlm_ros.models.llava.random import is_known

        return is_known(name)

    def check(self, name: str, config: Mapping[str, object]) -> None:
        """See `check_architecture`."""
        check_architecture(name, config)

    def sizes(self, name: str) -> ModelSizes:
        """The sizes of tower, projector and language model."""
        from svd_vlm_ros.models.llava.loading import find_sizes

        return find_sizes(name)

    def load(
        self, name: str, *, precision: str, device: str, seed: int, options: ModelOptions
    ) -> LoadedModel:
        """See `load_llava`."""
        from svd_vlm_ros.models.llava.loading import load_llava

        return load_llava(name, precision=precision, device=device, seed=seed, options=options)

    def relevance(self, name: str) -> str:
        """By CLIP; scout and random models have no CLIP that fits them."""
        return "words" if name == SCOUT or is_random(name) else "clip"

    def check_relevance(self, selector: TextRelevance) -> None:
        """Raise `UserError` if a selector's CLIP is not on this machine."""
        from svd_vlm_ros.models.llava.clip_text import check_relevance

        check_relevance(selector)


FAMILY = LlavaFamily()
