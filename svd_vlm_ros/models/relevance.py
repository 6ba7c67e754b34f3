# SPDX-License-Identifier: Apache-2.0
"""A question beside an image's patches by what every language model has: its word embeddings."""

from __future__ import annotations

from torch import Tensor, nn

from svd_vlm_ros.models.interface import Compare
from svd_vlm_ros.selection.features import ImageText, VisualFeatures


def by_words() -> Compare:
    """Compares the projected patches with the embeddings of the question's words."""
    return lambda features, _, embeddings: word_relevance(features, embeddings)


def word_relevance(features: VisualFeatures, embeddings: Tensor) -> ImageText:
    """Projected patches beside the question's word embeddings [t, hidden]."""
    if features.projected is None:
        raise ValueError("the relevance by words needs the projected patches")
    return ImageText(unit_rows(features.projected), unit_rows(embeddings))


def unit_rows(rows: Tensor) -> Tensor:
    """Rows [n, d] scaled to length 1, in float32."""
    return nn.functional.normalize(rows.float(), dim=1)
