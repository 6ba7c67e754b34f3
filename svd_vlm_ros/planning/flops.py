# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of one image and one question: as SVD-Prune's paper counts, and as computed.

Both count a multiply-accumulate (MAC) as one operation, as the paper's table of "FLOPs" does; a
chip's FLOP/s count it as two.

The paper (Table 2) takes all layers of the tower, two of the three matrices of Llama's gated MLP,
no output head, and an average of 49.75 text tokens. `true_work` counts what is computed: the layers
up to the one that the model looks at, the patch embedding, all three matrices, grouped heads, and
the output head for the one row that is needed. In both the tower encodes every patch of every tile,
whatever is kept: with merged patches that is several for each visual token.
"""

from __future__ import annotations

from dataclasses import dataclass

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.planning.shapes import Decoder, ModelSizes, Tower
from svd_vlm_ros.planning.views import TYPICAL, Size, View

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


def paper_work(
    model: ModelSizes,
    visual_tokens: int,
    text_tokens: float = PAPER_TEXT_TOKENS,
    image: Size = TYPICAL,
) -> Work:
    """MACs as the paper counts them. Raises `UserError` for a count of tokens out of range."""
    view = _checked_view(model, visual_tokens, text_tokens, image)
    tower, text = model.tower, model.decoder
    rows = tower.rows(view) / view.tiles
    read = view.read(visual_tokens) + text_tokens
    return Work(
        vision=view.tiles * tower.layers * _layer(rows, tower.hidden, tower.intermediate),
        projector=visual_tokens * model.connector.token_macs,
        language=text.layers * _layer(read, text.hidden, text.intermediate),
    )


def true_work(
    model: ModelSizes,
    visual_tokens: int,
    text_tokens: float = PAPER_TEXT_TOKENS,
    image: Size = TYPICAL,
) -> Work:
    """MACs that are computed.

    Args:
        model: its sizes.
        visual_tokens: that are kept.
        text_tokens: of prompt and question.
        image: its size.

    Raises:
        UserError: a count of tokens is out of range, or the model can't take such an image.
    """
    view = _checked_view(model, visual_tokens, text_tokens, image)
    return Work(
        vision=vision_work(model.tower, view),
        projector=visual_tokens * model.connector.token_macs,
        language=read_work(model.decoder, view.read(visual_tokens) + text_tokens),
        head=model.decoder.embedding_weights,
    )


def vision_work(tower: Tower, view: View) -> float:
    """MACs of a tower up to the layer that is looked at, patch embedding included."""
    rows, width = tower.rows(view), tower.hidden
    linear = rows * (4 * width**2 + tower.matrices * width * tower.intermediate)
    seen = rows / view.tiles  # by each row, in a layer of full attention
    full = tower.full_layers if tower.window else tower.layers_used
    near = (tower.layers_used - full) * min(tower.window, seen)
    attention = 2 * rows * (full * seen + near) * width
    outside = view.patches * tower.patch_pixels * width + view.tokens * tower.token_macs
    return tower.layers_used * linear + attention + outside


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


def _checked_view(model: ModelSizes, visual_tokens: int, text_tokens: float, image: Size) -> View:
    view = model.view(image)
    if not 1 <= visual_tokens <= view.tokens:
        raise UserError(
            f"{model.name} has 1 to {view.tokens} visual tokens to keep of an image of "
            f"{image[1]}x{image[0]}, not {visual_tokens}."
        )
    if text_tokens < 0:
        raise UserError(f"The number of text tokens can't be {text_tokens:g}.")
    return view
