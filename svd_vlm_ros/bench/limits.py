# SPDX-License-Identifier: Apache-2.0
"""How near a row comes to what its machine could do: bytes, operations, and their roofline."""

from __future__ import annotations

from svd_vlm_ros.bench.machine import Machine
from svd_vlm_ros.planning.flops import true_work
from svd_vlm_ros.planning.memory import Floats, linear_bytes
from svd_vlm_ros.planning.shapes import ModelSizes
from svd_vlm_ros.planning.views import Size

ARITHMETIC, BANDWIDTH = "arithmetic", "bandwidth"


def row_limits(
    sizes: ModelSizes,
    precision: str,
    floats: Floats,
    machine: Machine,
    *,
    image: Size,
    visual_tokens: int,
    prompt_tokens: int,
    answer_tokens: int,
    first_token: float,
    token: float,
) -> dict[str, float | str]:
    """What a row moves and computes, beside what the machine allows.

    Args:
        floats: bytes of what is not quantized.
        machine: the measured limits.
        image: the image's size.
        prompt_tokens: all tokens in front of the answer, the visual ones among them.
        first_token, token: the measured seconds.

    Returns:
        `token_bytes` (weights and cache that one written token reads), `bandwidth` (achieved while
        writing, bytes a second) and `bandwidth_share` (of the measured one); `operations` (up to
        the first token, two a multiply-accumulate), `rate` and `rate_share`; `roofline` (the
        seconds of the whole answer at both limits) and `roofline_ratio` (measured / roofline);
        `limit` (what most of the roofline's time waits for).
    """
    size, text = floats.matrix, sizes.decoder
    weights = linear_bytes(text, precision) + size * text.embedding_weights
    cached = (prompt_tokens + answer_tokens / 2) * text.cache_numbers * floats.activation
    token_bytes = weights + cached
    beside = prompt_tokens - sizes.view(image).read(visual_tokens)
    work = true_work(sizes, visual_tokens, beside, image)
    spent = {ARITHMETIC: 0.0, BANDWIDTH: 0.0}
    for macs, read in (
        (work.vision, size * sizes.tower.weights),
        (work.projector, size * sizes.connector.weights),
        (work.language + work.head, weights),
    ):
        computing, reading = 2 * macs / machine.matrix_rate, read / machine.bandwidth
        spent[ARITHMETIC if computing >= reading else BANDWIDTH] += max(computing, reading)
    spent[BANDWIDTH] += (answer_tokens - 1) * token_bytes / machine.bandwidth
    roofline = sum(spent.values())
    bandwidth = token_bytes / token if token else 0.0
    rate = 2 * work.total / first_token
    measured = first_token + (answer_tokens - 1) * token
    return {
        "token_bytes": token_bytes,
        "bandwidth": bandwidth,
        "bandwidth_share": bandwidth / machine.bandwidth,
        "operations": 2 * work.total,
        "rate": rate,
        "rate_share": rate / machine.matrix_rate,
        "roofline": roofline,
        "roofline_ratio": measured / roofline,
        "limit": max(spent, key=spent.__getitem__),
    }
