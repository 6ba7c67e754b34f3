# SPDX-License-Identifier: Apache-2.0
"""The protocols of the selectors that act before the language model. No torch in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from svd_vlm_ros.selection.values import QUESTION_NEEDS, Budget, Need, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from svd_vlm_ros.selection.features import Encoder, VisualFeatures


@runtime_checkable
class FeatureSelector(Protocol):
    """A rule that chooses patches. `name` is the one under which it is registered."""

    @property
    def name(self) -> str:
        """The name that users write."""
        ...

    @property
    def needs(self) -> frozenset[Need]:
        """What it looks at beyond the patches, from `NEEDS`; that is computed, and no more."""
        ...

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """Choose patches of one image within a budget."""
        ...


@runtime_checkable
class EncoderSelector(FeatureSelector, Protocol):
    """A rule that works inside the vision encoder; it has the need "encoder"."""

    def encode(
        self,
        encoder: Encoder,
        grid: tuple[int, int] | None,
        valid: Tensor | None,
        budget: Budget,
    ) -> tuple[Tensor, Selection]:
        """Run the encoder's layers, and choose on the way.

        Args:
            encoder: the opened encoder.
            grid, valid: of the patches; see `VisualFeatures`.
            budget: what is asked for.

        Returns:
            float [N, D], for each patch the features of its token, and the selection.
        """
        ...


def looks_at_question(selector: FeatureSelector) -> bool:
    """Whether what it keeps serves one question only, so that a Scene can't be shared."""
    return bool(selector.needs & QUESTION_NEEDS)
