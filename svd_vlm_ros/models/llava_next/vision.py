# SPDX-License-Identifier: Apache-2.0
"""A tower over tiles, and the projector of what was kept, with a learned newline behind each row.

Between the two stand the patches of an image in the order of its visual tokens (`anyres.py`). A
newline goes with its row: of a row of which nothing is kept it says nothing.

A grid that is shrunk is a mixture of rows *behind* the projector. The selectors see the same
mixture of the rows in front of it, so that they look at one space whatever an image's size, and
the visual tokens are the model's own: all patches of such an image are projected (0.4 % of the
tower's work in the 0.5B model, 4 % in the 7B model), and of what comes out some are taken.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from svd_vlm_ros.models.images import ProcessedImage
from svd_vlm_ros.models.llava.vision import looks_of_class_token
from svd_vlm_ros.models.llava_next.anyres import PackedFraming, Packing, Shape
from svd_vlm_ros.models.markers import Layout
from svd_vlm_ros.models.tokens import Tokens
from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.interface import EncoderSelector
from svd_vlm_ros.selection.tokens import merged_rows, token_rows
from svd_vlm_ros.selection.values import Budget, Need, Selection


class TileEncoder:
    """From the pixel values of tiles to the features of patches: `interface.VisionEncoder`.

    The layers behind the one that the model looks at are never computed. A class token looks at
    the patches of its own tile alone: attention is the mean over those of all tiles, and the class
    token beside the patches is the thumbnail's, which sees all of the image.
    """

    def __init__(self, model: Any, class_tokens: int) -> None:
        """Take the tower of a model, with so many class tokens in front of a tile's patches."""
        tower, chosen = model.model.vision_tower, model.config.vision_feature_layer
        count = len(tower.encoder.layers) + 1 + chosen if chosen < 0 else chosen
        self._embeddings, self._layers = tower.embeddings, tower.encoder.layers[:count]
        self._norm = getattr(tower, "pre_layrnorm", None)
        self._weight = tower.embeddings.patch_embedding.weight
        self._projector = model.model.multi_modal_projector
        self._class_tokens = class_tokens
        self.gives: frozenset[Need] = frozenset({"projected"})
        if class_tokens:
            self.gives |= {"class_attention", "keys"}

    def __call__(
        self,
        image: ProcessedImage,
        needs: frozenset[Need] = frozenset(),
        selector: EncoderSelector | None = None,
        budget: Budget | None = None,
    ) -> VisualFeatures:
        """Encode one image; see `interface.VisionEncoder`.

        Returns:
            Features [N, D] of the thumbnail's patches and of the large grid's.
        """
        framing = image.framing
        assert isinstance(framing, PackedFraming)
        packing = framing.packing
        hidden = self._embeddings(image.pixels.to(self._weight.device, self._weight.dtype))
        if self._norm is not None:
            hidden = self._norm(hidden)  # [tiles, c + n, D]
        for layer in self._layers[:-1]:
            hidden = layer(hidden, None)
        extra: dict[str, Any] = {}
        if needs & {"class_attention", "keys"}:
            looks = looks_of_class_token(self._layers[-1], hidden, needs)
            extra = _of_image(looks, packing)
        hidden = self._layers[-1](hidden, None)
        rows = hidden[:, self._class_tokens :]
        if "class_attention" in needs:
            extra["class_token"] = hidden[0, 0]
        patches = packing.pack(rows)
        if packing.shrinks:
            extra["projected"] = packing.pack(self._projector(rows))
        elif "projected" in needs:
            extra["projected"] = self._projector(patches)
        valid = framing.valid()
        return VisualFeatures(
            patches,
            None,
            None if valid is None else valid.to(patches.device),
            tiles=tuple(tile.grid for tile in framing.tiles),
            thumbnail=framing.thumbnail,
            **extra,
        )


class NewlineProjector:
    """The kept patches as visual tokens among newlines: `interface.Connector`."""

    def __init__(self, model: Any, original: bool) -> None:
        """Take the projector of a model; `original`: tokens keep their places in the image."""
        self._projector, self._original = model.model.multi_modal_projector, original
        self._newline = model.model.image_newline[None]

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tokens:
        """The visual tokens. Where all patches are projected, mixtures are made of these."""
        if features.projected is None or selection.features is not None:
            rows = self._projector(token_rows(features, selection))
        else:
            token = features.class_token
            token = None if token is None else self._projector(token)
            rows = merged_rows(features.projected, selection, token)
        layout = _layout(features.tiles, rows.device)
        return layout.place(rows, selection.indices, self._newline, self._original)

    def room(self, features: VisualFeatures, kept: int) -> int:
        """Tokens, or position ids if they are more."""
        return _layout(features.tiles, features.patches.device).room(kept, self._original)


def _of_image(looks: dict[str, Tensor], packing: Packing) -> dict[str, Tensor]:
    """What the class tokens of all tiles see, as that of one image."""
    found: dict[str, Tensor] = {}
    if "class_attention" in looks:
        attention = looks["class_attention"]  # [tiles, heads, n]
        found["class_attention"] = packing.pack(attention.transpose(1, 2)).T / len(attention)
    if "keys" in looks:
        found["keys"], found["class_key"] = packing.pack(looks["keys"]), looks["class_key"][0]
    return found


@lru_cache(maxsize=8)
def _layout(tiles: tuple[Shape, ...], device: torch.device) -> Layout:
    """Thumbnail, then the large grid's rows, each a group with its newline behind it.

    Newlines of rows without columns always stay: they are in the model's own prompt too.
    """
    (side, _), (rows, columns) = tiles
    ahead = side**2
    large = ahead + torch.arange(rows * columns, device=device).view(rows, columns)
    slots = torch.cat([large, large.new_full((rows, 1), -1)], dim=1).flatten()
    groups = torch.arange(1, rows + 1, device=device).repeat_interleave(columns + 1)
    if not columns:
        groups.fill_(-1)
    return Layout(
        torch.cat([torch.arange(ahead, device=device), slots]),
        torch.cat([groups.new_zeros(ahead), groups]),
    )
