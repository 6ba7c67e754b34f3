# SPDX-License-Identifier: Apache-2.0
"""Visual tokens among the markers of a family: names of tiles, line feeds, learned newlines.

A marker goes with its patches: of a tile, or of a row, of which nothing is kept, it says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svd_vlm_ros.models.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Layout:
    """How the patches of an image and its markers lie behind each other.

    Attributes:
        slots: int64 [n]: a patch's index, or -1 - i for the marker i. The patches ascend.
        groups: int64 [n]: whose patches a marker belongs to; -1: it always stays. A patch's own
            group is that of the markers that go with it.
    """

    slots: Tensor
    groups: Tensor

    def place(self, rows: Tensor, kept: Tensor, markers: Tensor, original: bool) -> Tokens:
        """The visual tokens of kept patches with the markers that go with them.

        Args:
            rows: [k, hidden], of the kept patches.
            kept: int64 [k], ascending.
            markers: [m, hidden], their embeddings.
            original: whether all stay at the position that they have if all patches are kept.
        """
        is_patch = self.slots >= 0
        stays = is_patch & torch.isin(self.slots, kept)
        alive = torch.cat([self.groups[stays], self.groups.new_tensor([-1])])
        stays |= ~is_patch & torch.isin(self.groups, alive)
        slots = self.slots[stays]
        placed = rows.new_empty(len(slots), rows.shape[1])
        placed[slots >= 0] = rows
        placed[slots < 0] = markers[-1 - slots[slots < 0]].to(rows.dtype)
        if original:
            return Tokens(placed, stays.nonzero().flatten(), len(self.slots))
        return Tokens.in_order(placed)

    def room(self, kept: int, original: bool) -> int:
        """The most tokens, or position ids, that so many patches and their markers take up.

        They are most if each patch is of another group, and these have the most markers.
        """
        if original:
            return len(self.slots)
        owners = self.groups[self.slots < 0]
        of_groups = owners[owners >= 0].bincount().sort(descending=True).values[:kept]
        return kept + int((owners < 0).sum() + of_groups.sum())
