# SPDX-License-Identifier: Apache-2.0
"""Bytes of a running model, by part. Weights and cache are exact; what is estimated says so."""

from __future__ import annotations

from dataclasses import dataclass

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.shapes import Decoder, ModelSizes
from svd_vlm_ros.planning.views import TYPICAL, Size, View

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4")
QUANTIZED = ("int8", "int4")
# NF4 with double quantization: 4 bits, an 8-bit scale for 64 weights, a 32-bit one for 256 of these
# (8 bits each). AWQ in groups of 128 with 16-bit scales takes the same within 0.1 %.
INT4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
INT8_ROW_BYTES = 4  # the scale of each output

# Estimates, marked as such wherever they are shown.
RUNTIME_BYTES = 0.9e9  # Python, torch, CUDA context and kernels, ROS 2 (estimate)
WORKSPACE_BYTES = 0.1e9  # of matrix libraries, and what the allocator can't reuse (estimate)


@dataclass(frozen=True)
class Floats:
    """Bytes of a number that is not quantized.

    Attributes:
        matrix: in the matrices of projector, output head, and of an unquantized decoder.
        activation: in activations, KV cache, embedding and norms.
        tower: in the matrices of the vision tower; None: as `matrix`.
    """

    matrix: int
    activation: int
    tower: int | None = None


@dataclass(frozen=True)
class Part:
    """One part of the memory.

    Attributes:
        name: in words.
        bytes: its size.
        estimate: it is not calculated from the model's sizes.
    """

    name: str
    bytes: float
    estimate: bool = False


def check_precision(precision: str) -> None:
    """Raise `UserError` if a precision is not known."""
    if precision not in PRECISIONS:
        raise UserError(
            f"There is no precision '{precision}': take one of {', '.join(PRECISIONS)}."
        )


def floats_of(precision: str) -> Floats:
    """What is usual: 32 bits in fp32, else 16. CPUs may differ (`precision_choice.py`)."""
    check_precision(precision)
    size = 4 if precision == "fp32" else 2
    return Floats(size, size)


def linear_bytes(decoder: Decoder, precision: str) -> float:
    """Bytes of the decoder's linear layers: what each written token reads, but for the head."""
    if precision == "int8":
        return decoder.linear_weights + INT8_ROW_BYTES * decoder.linear_rows
    if precision == "int4":
        return decoder.linear_weights * INT4_BYTES
    return decoder.linear_weights * floats_of(precision).matrix


def weight_parts(model: ModelSizes, precision: str, floats: Floats | None = None) -> list[Part]:
    """The weights by part, with only the decoder's linear layers quantized, as this package does.

    Raises:
        UserError: the precision is not known.
    """
    size = floats or floats_of(precision)
    text = model.decoder
    decoder = linear_bytes(text, precision) + size.activation * text.norm_weights
    return [
        Part("vision tower", (size.tower or size.matrix) * model.tower.weights),
        Part("projector", size.matrix * model.connector.weights),
        Part("embedding", size.activation * text.embedding_weights),
        Part("decoder", decoder),
        Part("output head", 0 if text.tied else size.matrix * text.embedding_weights),
    ]


def running_parts(
    model: ModelSizes,
    precision: str,
    view: View,
    *,
    visual_tokens: int,
    text_tokens: int,
    answer_tokens: int,
    cameras: int,
    floats: Floats | None = None,
) -> list[Part]:
    """What comes on top of the weights while cameras are watched and one question is answered.

    The cache holds each camera's Scene (image and prompt), and one more that a question is
    continued in. The activations are those of the widest moment: the tower, or the reading of
    image and question with the MLP's three results at once, and for quantized weights one layer
    unpacked to 16 bits.
    """
    size = (floats or floats_of(precision)).activation
    text, tower = model.decoder, model.tower
    read = view.read(visual_tokens) + text_tokens
    held = cameras * read + read + answer_tokens
    width = 6 * tower.hidden + tower.matrices * tower.intermediate
    seeing = tower.rows(view) * width * size
    reading = read * (6 * text.hidden + 3 * text.intermediate) * size + 4 * text.vocabulary
    unpacked = size * text.hidden * text.intermediate if precision in QUANTIZED else 0
    return [
        Part("KV cache", held * text.cache_numbers * size),
        Part("activations", max(seeing, reading + unpacked) + WORKSPACE_BYTES, estimate=True),
        Part("runtime", RUNTIME_BYTES, estimate=True),
    ]


def needed_bytes(
    model: ModelSizes,
    precision: str,
    floats: Floats | None = None,
    *,
    image: Size = TYPICAL,
    visual_tokens: int = 192,
    text_tokens: int = 64,
    answer_tokens: int = 64,
    cameras: int = 1,
) -> float:
    """Bytes of weights and of all that comes on top of them."""
    view = model.view(image)
    running = running_parts(
        model,
        precision,
        view,
        visual_tokens=min(visual_tokens, view.tokens),
        text_tokens=text_tokens,
        answer_tokens=answer_tokens,
        cameras=cameras,
        floats=floats,
    )
    return sum(part.bytes for part in (*weight_parts(model, precision, floats), *running))
