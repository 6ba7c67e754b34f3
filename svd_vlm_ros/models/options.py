# SPDX-License-Identifier: Apache-2.0
"""How a model is to be run, apart from its precision and its device. No torch in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from svd_vlm_ros.errors import UserError

PositionPolicy = Literal["auto", "contiguous", "original"]


@dataclass(frozen=True)
class ModelOptions:
    """How a model is to be run, apart from its precision and its device.

    Attributes:
        position_policy: the position ids of the kept visual tokens. "contiguous": they close ranks,
            as in the papers. "original": each keeps the one that it has among all of the image, and
            what follows stands behind all of the image. "auto": as the family's room says.
        min_pixels, max_pixels: of the image that a family with dynamic resolution makes; None: as
            the checkpoint says.
    """

    position_policy: PositionPolicy = "auto"
    min_pixels: int | None = None
    max_pixels: int | None = None


def refuse_pixels(name: str, options: ModelOptions) -> None:
    """Raise `UserError` if bounds are set for images whose size the model has fixed."""
    if options.min_pixels is not None or options.max_pixels is not None:
        raise UserError(
            f"{name} looks at images of one size: leave min_pixels and max_pixels unset."
        )
