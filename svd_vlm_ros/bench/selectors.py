# SPDX-License-Identifier: Apache-2.0
"""The third table: the selectors' own time on the features of LLaVA-1.5, 576 x 1024."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from svd_vlm_ros.bench.answers import Step
from svd_vlm_ros.bench.samples import seconds_of
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection import (
    Budget,
    FeatureSelector,
    ImageText,
    VisualFeatures,
    make_selector,
    selector_names,
)

GRID = (24, 24)
WIDTH, HEADS, HEAD, HIDDEN, TEXT = 1024, 16, 64, 4096, 12
DECAY = 0.98  # of one singular value to the next: as slow as in CLIP's features


def measure_selectors(
    device: torch.device, dtype: torch.dtype, tokens: int, step: Step
) -> dict[str, float | str]:
    """The median seconds of each selector that acts before the language model.

    Args:
        device: where the features lie.
        dtype: of the features.
        tokens: to keep.
        step: called with words before each selector.

    Returns:
        {name: seconds}, or why it was not measured.
    """
    features = make_features(device, dtype)
    taken: dict[str, float | str] = {}
    for name in selector_names("before"):
        step(f"selector {name}")
        try:
            select = make_selector(name)
        except UserError as error:
            taken[name] = str(error)
            continue
        assert isinstance(select, FeatureSelector)  # of the kind "before"
        if "encoder" in select.needs:
            taken[name] = "works inside the tower: its time is part of the vision's"
            continue
        with torch.inference_mode():
            budget = Budget(tokens)
            taken[name] = seconds_of(lambda: select(features, budget), device)  # noqa: B023
    return taken


def make_features(device: torch.device, dtype: torch.dtype) -> VisualFeatures:
    """Random features with a falling spectrum, and all else that a selector may ask for."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    count = GRID[0] * GRID[1]
    patches = random(count, count) * DECAY ** torch.arange(count) @ random(count, WIDTH)

    def there(values: Tensor) -> Tensor:
        return values.to(device, dtype)

    return VisualFeatures(
        patches=there(patches / patches.std()),
        grid=GRID,
        class_attention=random(HEADS, count).softmax(dim=1).to(device) * 0.9,
        class_token=there(random(WIDTH)),
        keys=there(random(count, HEAD)),
        class_key=there(random(HEAD)),
        projected=there(random(count, HIDDEN)),
        image_text=ImageText(
            patches=normalize(random(count, 768), dim=1).to(device),
            text=normalize(random(TEXT, 768), dim=1).to(device),
            inverted=True,
        ),
        question=there(random(TEXT, HIDDEN)),
    )
