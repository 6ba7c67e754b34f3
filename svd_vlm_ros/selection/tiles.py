# SPDX-License-Identifier: Apache-2.0
"""How the tiles of one image share a budget.

A thumbnail shows the whole image once more, in less detail: its patches would win or lose against
those of the tiles as a whole. So it keeps its part of the budget, and the rest goes to the tiles
together: they are one set of patches, of which the selector takes the best.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from svd_vlm_ros.selection.features import VisualFeatures
from svd_vlm_ros.selection.interface import FeatureSelector
from svd_vlm_ros.selection.values import Budget, Selection


def select_patches(
    selector: FeatureSelector, features: VisualFeatures, budget: Budget
) -> Selection:
    """Choose patches of an image, of its thumbnail and of its tiles apart if it has any.

    Args:
        selector: chooses among patches.
        features: of the image.
        budget: for the whole image. Of b tokens the thumbnail, with n of N patches, keeps
            b * n // N, and at least one; of an energy each part keeps as many as it takes.

    Returns:
        As the selector's own, over all patches.
    """
    if features.thumbnail is None or len(features.tiles) < 2:
        return selector(features, budget)
    sizes = [prod(grid) for grid in features.tiles]
    at = features.thumbnail
    everything = torch.arange(len(features), device=features.patches.device)
    start = sum(sizes[:at])
    of_thumbnail = everything[start : start + sizes[at]]
    of_tiles = torch.cat([everything[:start], everything[start + sizes[at] :]])
    grids = [grid for index, grid in enumerate(features.tiles) if index != at]
    share = max(1, min(budget.tokens, len(features)) * sizes[at] // len(features))
    parts: list[tuple[Tensor, Selection]] = []
    shares = (share, of_thumbnail, [features.tiles[at]]), (budget.tokens - share, of_tiles, grids)
    for tokens, rows, tiles in shares:
        part = features.part(rows, tuple(tiles))
        if tokens and part is not None:
            parts.append((rows, selector(part, replace(budget, tokens=tokens))))
    return _join(parts, len(features))


def _join(parts: list[tuple[Tensor, Selection]], total: int) -> Selection:
    """One selection of several, each of the patches that stand beside it."""
    indices = torch.cat([rows[chosen.indices] for rows, chosen in parts])
    order = indices.argsort()
    scores = torch.zeros(total, device=indices.device)
    for rows, chosen in parts:
        scores[rows] = chosen.scores * (len(rows) / sum(len(rows) for rows, _ in parts))
    merge = None
    if any(chosen.merge is not None for _, chosen in parts):
        merges = [_wider(rows, chosen, total) for rows, chosen in parts]
        merge = torch.cat(merges).index_select(0, order)
    return Selection(indices[order], scores, merge)


def _wider(rows: Tensor, chosen: Selection, total: int) -> Tensor:
    """What a part's tokens are made of, in columns of the class token and all patches."""
    columns = torch.cat([rows.new_zeros(1), 1 + rows])
    if chosen.merge is None:
        row, column = torch.arange(len(chosen), device=rows.device), 1 + chosen.indices
        weights = torch.ones(len(chosen), device=rows.device)
    else:
        merge = chosen.merge.coalesce()
        row, column = merge.indices()
        weights = merge.values()
    places = torch.stack([row, columns[column]])
    size = (len(chosen), 1 + total)
    return torch.sparse_coo_tensor(places, weights, size, check_invariants=False)
