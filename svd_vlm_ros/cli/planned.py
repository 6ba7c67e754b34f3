# SPDX-License-Identifier: Apache-2.0
"""What `svd-vlm plan` and `svd-vlm flops` share: a model by its name, an image by its size."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

import re
from contextlib import suppress
from typing import Annotated

import typer

DEFAULT_IMAGE = "640x480"

PlannedModel = Annotated[
    str,
    typer.Option(
        help="A name such as llava-1.5-7b or Qwen/Qwen3-VL-2B-Instruct, which need not be on this "
        "machine (a wrong one lists those known), or a folder with a config.json.",
    ),
]
ImageSize = Annotated[
    str,
    typer.Option(
        "--image",
        metavar="WIDTHxHEIGHT",
        help="What the cameras send. LLaVA-1.5 sees every image in one size; others make more "
        "patches of a larger one, or tiles by its shape.",
    ),
]


def parse_image(text: str) -> tuple[int, int]:
    """Height and width of `1280x720`."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    if found is None or not int(found[1]) * int(found[2]):
        raise typer.BadParameter(f"'{text}' is no size of an image such as {DEFAULT_IMAGE}")
    return int(found[2]), int(found[1])


def in_words(image: tuple[int, int]) -> str:
    """`1280x720`: width and height."""
    return f"{image[1]}x{image[0]}"


def find_model(name: str) -> str:
    """A model's name, or the folder of one that is on this machine and not known by its name."""
    from svd_vlm_ros.errors import UserError
    from svd_vlm_ros.models.files import find_folder, is_random
    from svd_vlm_ros.planning.known import find_sizes

    with suppress(UserError):
        return find_sizes(name).name
    with suppress(UserError):
        return name if is_random(name) else str(find_folder(name))
    return name
