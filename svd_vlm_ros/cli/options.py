# SPDX-License-Identifier: Apache-2.0
"""The options that several commands share, and the engine that they describe."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from svd_vlm_ros.cli.console import print_warning, spinner

if TYPE_CHECKING:
    from svd_vlm_ros.engine import SceneEngine

DEFAULT_HUB_MODEL = "llava-hf/llava-1.5-7b-hf"


class Precision(str, Enum):
    """How the weights are kept: 32 or 16 bits, or quantized by bitsandbytes; auto: the fastest."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"


def parse_visual_tokens(text: str) -> int | float:
    """Read a budget: `64` keeps 64 tokens; a number with a point, `0.9`, is an energy in (0, 1]."""
    try:
        tokens = int(text)
    except ValueError:
        tokens = None
    if tokens is not None:
        if tokens < 1:
            raise typer.BadParameter("keep at least 1 visual token")
        return tokens
    try:
        energy = float(text)
    except ValueError:
        energy = -1.0
    if not 0 < energy <= 1:
        raise typer.BadParameter(
            f"'{text}' is neither a number of tokens, such as 64, nor an energy above 0 and up to "
            "1.0, such as 0.9"
        )
    return energy


# typer 0.9, which Ubuntu 24.04 has, reads no `X | None`.
MaybePath = Optional[Path]  # noqa: UP045
MaybeText = Optional[str]  # noqa: UP045
MaybeNumber = Optional[int]  # noqa: UP045

ImagePath = Annotated[
    Path, typer.Argument(metavar="IMAGE", help="An image that OpenCV reads: JPEG, PNG, ...")
]
Model = Annotated[
    str,
    typer.Option(
        help="scout (comes with this package, knows its own drawn world), hub id or folder of a "
        f"model such as {DEFAULT_HUB_MODEL} (docs/models.md lists the families), random:tiny or "
        "random:llava-1.5-7b; or a folder that svd-vlm export onnx has written.",
    ),
]


class Runtime(str, Enum):
    """What computes."""

    AUTO = "auto"
    TORCH = "torch"
    ONNX = "onnx"


RuntimeOption = Annotated[
    Runtime,
    typer.Option(
        "--runtime",
        help="torch, or onnx, which runs exported folders and needs no torch; auto: onnx if the "
        "model is such a folder, else torch.",
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="Of the weights; auto: the fastest here that fits into memory (svd-vlm doctor).",
    ),
]
SelectorName = Annotated[
    str, typer.Option("--selector", help="How the visual tokens are chosen: svd, none, ...")
]
VisualTokens = Annotated[
    str,
    typer.Option(
        "--visual-tokens",
        metavar="N|ENERGY",
        help="Visual tokens to keep: a number, or an energy such as 0.9 (see --token-cap).",
    ),
]
TokenCap = Annotated[
    int, typer.Option("--token-cap", min=1, help="The most tokens that an energy may keep.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; of an export also tensorrt.")]
MinPixels = Annotated[
    MaybeNumber,
    typer.Option(
        "--min-pixels",
        min=1,
        help="Enlarge smaller images to so many pixels, if the model takes any size.",
        show_default="as its checkpoint says",
    ),
]
MaxPixels = Annotated[
    MaybeNumber,
    typer.Option(
        "--max-pixels",
        min=1,
        help="Reduce larger images to so many pixels, if the model takes any size; fewer are "
        "faster.",
        show_default="as its checkpoint says",
    ),
]


class PositionPolicy(str, Enum):
    """Position ids of the kept tokens: closing ranks, as in the whole image, by the family."""

    AUTO = "auto"
    CONTIGUOUS = "contiguous"
    ORIGINAL = "original"


PositionPolicyOption = Annotated[
    PositionPolicy,
    typer.Option(
        "--position-policy",
        help="Position ids of the kept visual tokens: contiguous (they close ranks), original (as "
        "in the whole image), auto (as the family needs it).",
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="The longest answer, in tokens.")
]
Overlay = Annotated[
    MaybePath,
    typer.Option(
        "--overlay", metavar="PNG", help="Also draw the kept patches and the answer into this file."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def load_engine(
    model: str,
    precision: Precision,
    selector: str,
    visual_tokens: int | float,
    token_cap: int,
    device: str,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    position_policy: PositionPolicy = PositionPolicy.AUTO,
    runtime: Runtime = Runtime.AUTO,
) -> tuple[SceneEngine, float]:
    """Load the engine with a spinner. Returns it with the seconds that it took.

    Raises `UserError` if the model is not on this machine or an option is not known.
    """
    with spinner(f"Loading {model} ({precision.value})"):
        from svd_vlm_ros.engine import SceneEngine

        begun = time.perf_counter()
        engine = SceneEngine.load(
            model,
            runtime=runtime.value,
            precision=precision.value,
            selector=selector,
            visual_tokens=visual_tokens,
            token_cap=token_cap,
            device=device,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            position_policy=position_policy.value,
        )
        seconds = time.perf_counter() - begun
    if engine.info.advice:
        print_warning(engine.info.advice)
    if engine.info.random_weights:
        print_warning(
            f"{model} has random weights: its answers are noise, only times mean something."
        )
    return engine, seconds
