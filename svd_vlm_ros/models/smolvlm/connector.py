# SPDX-License-Identifier: Apache-2.0
"""The kept blocks as visual tokens, the names of their tiles among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.markers import Layout
from svd_vlm_ros.models.smolvlm.prompt import BORDER, marked_text
from svd_vlm_ros.models.smolvlm.vision import CutFeatures
from svd_vlm_ros.models.tokens import Tokens
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.tokens import token_rows
from svd_vlm_ros.selection.values import Selection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TileConnector:
    """The projection of kept blocks, with markers: `interface.Connector`."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, original: bool) -> None:
        """Take the parts of a model.

        Args:
            model: of transformers.
            tokenizer: of the markers.
            original: tokens keep the places that they have in the whole image.

        Raises:
            UserError: the tokenizer does not know the border between tiles.
        """
        self._project = model.model.connector.modality_projection
        self._embedding = model.get_input_embeddings()
        self._tokenizer, self._original = tokenizer, original
        self._image_token_id = int(model.config.image_token_id)
        border = tokenizer.convert_tokens_to_ids(BORDER)
        if not isinstance(border, int) or border == tokenizer.unk_token_id:
            raise UserError(
                f"The tokenizer has no token {BORDER}: it does not belong to this model."
            )
        self._border = border
        self._made: dict[tuple[tuple[int, int], int], tuple[Layout, Tensor]] = {}

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tokens:
        """The visual tokens and the names of their tiles."""
        if selection.merge is None and features.projected is not None:
            rows = features.projected[selection.indices]
        else:
            rows = self._project(token_rows(features, selection))
        layout, ids = self._layout(features)
        return layout.place(rows, selection.indices, self._embedding(ids), self._original)

    def room(self, features: VisualFeatures, kept: int) -> int:
        """Tokens, or position ids if they are more, the names of their tiles counted."""
        return self._layout(features)[0].room(kept, self._original)

    def _layout(self, features: VisualFeatures) -> tuple[Layout, Tensor]:
        """Where blocks and markers stand, and the markers' ids, where the features are."""
        assert isinstance(features, CutFeatures)
        key = features.cut, len(features)
        if key not in self._made:
            rows, columns = features.cut
            image_token = str(self._tokenizer.convert_ids_to_tokens(self._image_token_id))
            text = marked_text(rows, columns, image_token)
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            blocks = len(features) // (rows * columns + 1)
            layout, markers = lay_out(ids, self._image_token_id, self._border, blocks)
            device = features.patches.device
            layout = Layout(layout.slots.to(device), layout.groups.to(device))
            self._made[key] = layout, markers.to(device)
        return self._made[key]


def lay_out(ids: list[int], image: int, border: int, blocks: int) -> tuple[Layout, Tensor]:
    """The layout of an image and its markers' ids [m].

    A tile's border and name go with it. The line feeds behind a row of tiles and the last border
    always stay.

    Args:
        ids: of `marked_text`.
        image: the image token, once for each tile.
        border: in front of each tile, and behind the last one.
        blocks: visual tokens of a tile.
    """
    slots: list[int] = []
    groups: list[int] = []
    markers: list[int] = []
    tiles, tile, group = ids.count(image), 0, -1
    for token in ids:
        if token == image:
            slots += range(tile * blocks, (tile + 1) * blocks)
            groups += [tile] * blocks
            tile, group = tile + 1, -1
            continue
        if token == border and tile < tiles:
            group = tile
        slots.append(-1 - len(markers))
        groups.append(group)
        markers.append(token)
    return Layout(torch.tensor(slots), torch.tensor(groups)), torch.tensor(markers)
