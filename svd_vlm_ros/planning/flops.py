# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of one image and one question: as SVD-Prune's paper counts, and as computed.

Both count a multiply-accumulate (MAC) as one operation, as the paper's table of "FLOPs" does; a
chip's FLOP/s count it as two.

The paper (Table 2) takes all layers of the tower, two of the three matrices of Llama's gated MLP,
no output head, and an average of 49.75 text tokens. `true_work` counts what is computed: the layers
up to the one that LLaVA looks at, the patch embedding, all three matrices, grouped heads, and the
output head for the one row that is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.shapes import Decoder, Llava, Tower

PAPER_TEXT_TOKENS = 49.75  # reproduces each number of the paper's Table 2
PAPER_TOKENS = (576, 192, 128, 64, 32, 16)
# Table 2: vision [G], projector [G], language model [T], total [T], reduction [%], as printed.
PAPER_TABLE = {
    576: ("190.600", "12.080", "3.250", "3.450", "0.00"),
    192: ("190.600", "4.030", "1.230", "1.430", "58.7"),
    128: ("190.600", "2.680", "0.903", "1.100", "68.2"),
    64: ("190.600", "1.340", "0.576", "0.770", "77.7"),
    32: ("190.600", "0.671", "0.413", "0.604", "82.5"),
    16: ("190.600", "0.336", "0.332", "0.523", "84.8"),
}


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates by part.

    Attributes:
        vision: the tower.
        projector: for the kept tokens.
        language: all layers of the language model, reading image and text.
        head: the output head, for one row; 0 in the paper's count.
    """

    vision: float
    projector: float
    language: float
    head: float = 0.0

    @property
    def total(self) -> float:
        """All parts."""
        return self.vision + self.projector + self.language + self.head


def paper_work(model: Llava, visual_tokens: int, text_tokens: float = PAPER_TEXT_TOKENS) -> Work:
    """MACs as the paper counts them. Raises `UserError` for a count of tokens out of range."""
    _check_tokens(model, visual_tokens, text_tokens)
    tower, text = model.tower, model.decoder
    return Work(
        vision=tower.layers * _layer(tower.patches + 1, tower.hidden, tower.intermediate),
        projector=visual_tokens * _projector(model),
        language=text.layers * _layer(visual_tokens + text_tokens, text.hidden, text.intermediate),
    )


def true_work(model: Llava, visual_tokens: int, text_tokens: float = PAPER_TEXT_TOKENS) -> Work:
    """MACs that are computed. Raises `UserError` for a count of tokens out of range."""
    _check_tokens(model, visual_tokens, text_tokens)
    return Work(
        vision=vision_work(model.tower),
        projector=visual_tokens * _projector(model),
        language=read_work(model.decoder, visual_tokens + text_tokens),
        head=model.decoder.embedding_weights,
    )


def vision_work(tower: Tower) -> float:
    """MACs of a tower up to the layer that is looked at, patch embedding included."""
    layer = _layer(tower.patches + 1, tower.hidden, tower.intermediate)
    return tower.layers_used * layer + tower.patches * tower.patch_pixels * tower.hidden


def read_work(decoder: Decoder, tokens: float, before: float = 0.0) -> float:
    """MACs of a language model that reads `tokens` behind `before` others, output head left out.

    Attention is counted for all pairs, as it is by convention: a kernel that leaves out what the
    causal mask hides computes half of it (at 626 tokens, 1.2 % of the whole).
    """
    pairs = tokens * (before + tokens)
    attention = 2 * pairs * decoder.heads * decoder.head_size
    return tokens * decoder.linear_weights + decoder.layers * attention


def _layer(rows: float, width: int, inside: int) -> float:
    """A transformer layer with an MLP of two matrices: 4nd^2 + 2n^2d + 2ndm."""
    return 4 * rows * width**2 + 2 * rows**2 * width + 2 * rows * width * inside


def _projector(model: Llava) -> int:
    return (model.tower.hidden + model.decoder.hidden) * model.decoder.hidden


def _check_tokens(model: Llava, visual_tokens: int, text_tokens: float) -> None:
    patches = model.tower.patches
    if not 1 <= visual_tokens <= patches:
        raise UserError(
            f"{model.name} has 1 to {patches} visual tokens to keep, not {visual_tokens}."
        )
    if text_tokens < 0:
        raise UserError(f"The number of text tokens can't be {text_tokens:g}.")
