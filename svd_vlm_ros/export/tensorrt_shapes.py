# SPDX-License-Identifier: Apache-2.0
"""The sizes of every input for which TensorRT tunes engines of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from svd_vlm_ros.onnx_runtime.manifest import DECODER, PROJECTOR, VISION, Manifest

ROWS = 64  # logits that are asked for at once: ends of questions, tokens of choices
QUESTION = 64  # tokens of prompt and question beside the image, for which prefill is tuned

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Profile:
    """Sizes of every input of a graph that TensorRT tunes an engine for: least, usual, most."""

    least: Shapes
    usual: Shapes
    most: Shapes


def profiles(manifest: Manifest, context: int) -> dict[str, tuple[Profile, ...]]:
    """The profiles of each graph: the decoder has one for reading and one for writing."""
    sizes = manifest.sizes
    patches = int(sizes["patches"][0]) * int(sizes["patches"][1])
    width, usual = int(sizes["vision_width"]), int(manifest.defaults["visual_tokens"])
    side = int(sizes["image_size"])
    pixels: Shapes = {"pixel_values": (1, 3, side, side)}
    rows: list[Shapes] = [{"rows": (k, width)} for k in (1, min(usual, patches), patches)]
    read = min(usual + QUESTION, context)
    reading = Profile(
        _decoder(manifest, 1, 0, 1),
        _decoder(manifest, read, 0, 1),
        _decoder(manifest, context, context, min(ROWS, context)),
    )
    writing = Profile(
        _decoder(manifest, 1, 1, 1),
        _decoder(manifest, 1, read, 1),
        _decoder(manifest, 1, context, 1),
    )
    return {
        VISION: (Profile(pixels, pixels, pixels),),
        PROJECTOR: (Profile(*rows),),
        DECODER: (reading, writing),
    }


def spec(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Shapes as `trtexec` and onnxruntime read them: `rows:1x1024,other:2x3`."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _decoder(manifest: Manifest, count: int, past: int, rows: int) -> Shapes:
    """All inputs of the decoder for n tokens behind p others."""
    sizes: Mapping[str, Any] = manifest.sizes
    shapes: Shapes = {
        "inputs_embeds": (1, count, sizes["hidden"]),
        "position_ids": (1, count),
        "rows": (rows,),
    }
    cache = 1, sizes["kv_heads"], past, sizes["head_dim"]
    for index in range(sizes["layers"]):
        shapes[f"past_key.{index}"] = shapes[f"past_value.{index}"] = cache
    return shapes
