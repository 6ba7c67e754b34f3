# SPDX-License-Identifier: Apache-2.0
"""ToMe: merge like patches inside the vision encoder, a few in every layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from svd_vlm_ros.selection.interface import Budget, Encoder, Need, Selection, VisualFeatures
from svd_vlm_ros.selection.ranking import TIE, tokens_of
from svd_vlm_ros.selection.sets import keep_all, merge_matrix


@dataclass(frozen=True)
class ToMe:
    """Token Merging (ICLR 2023), composed from the public sub-modules of the encoder's layers.

    In every layer that leads to the features, between attention and MLP: the tokens are split into
    two halves, even and odd places; each even one looks for the odd one with the most similar key
    (cosine, the mean over heads); the r most similar pairs become one token each, the mean weighted
    by how many patches each stands for. Attention gives a token of s patches s times the weight:
    log(s) is added to its logits. A class token is never merged. The encoder gets faster with every
    layer.

    Our readings:

    * The tokens to lose are spread evenly over the layers, the odd ones first: 560 of 576 in 23
      layers are 8 times 25 and 15 times 24. At very few tokens r is more than half of the tokens of
      the last layers; the matching is then done again in the same layer, so that every budget is
      met to the token.
    * A token lies at the place of the odd one that it was merged into, in raster order; that patch
      stands for it in `indices`.
    * Patches of padding go through the encoder as they do for every other selector, and are never
      merged. A budget that reaches all valid patches merges nothing: the tokens are then exactly
      those that the tower makes by itself.
    """

    name: ClassVar[str] = "tome"
    needs: ClassVar[frozenset[Need]] = frozenset({"encoder"})

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        """What was merged while the image was encoded, or merge now, from the opened tower.

        The scores of a token's patches sum to the same for every token: bright is what is alone.
        """
        wanted = min(tokens_of(budget, self.name), len(features.valid_indices()))
        if features.encoded is not None:
            if len(features.encoded) != wanted:
                raise ValueError(
                    f"the image was encoded for {len(features.encoded)} tokens, not {wanted}"
                )
            return features.encoded
        if features.encoder is None:
            raise ValueError(f"the selector '{self.name}' needs 'encoder', which is not there")
        return self.encode(features.encoder, features.grid, features.valid, budget)[1]

    def encode(
        self,
        encoder: Encoder,
        grid: tuple[int, int] | None,
        valid: Tensor | None,
        budget: Budget,
    ) -> tuple[Tensor, Selection]:
        """Run the encoder's layers, merging.

        Args:
            encoder: the opened tower.
            grid: rows and columns of patches.
            valid: bool [N]; see `VisualFeatures`.
            budget: fixed.

        Returns:
            float [N, D], for each patch the features of its token, and the selection.
        """
        ahead = encoder.class_tokens
        image = VisualFeatures(encoder.hidden[0, ahead:], grid, valid)
        places = image.valid_indices()
        padding = torch.nonzero(~valid).flatten() if valid is not None else places[:0]
        # Class token and padding in front, what may be merged behind: attention knows no order.
        front = ahead + len(padding)
        class_rows = torch.arange(ahead, device=places.device)
        order = torch.cat([class_rows, ahead + padding, ahead + places])
        tokens = _Tokens.single(encoder.hidden[0, order], front)
        lose = max(len(places) - tokens_of(budget, self.name), 0)
        for done, layer in enumerate(encoder.layers):
            share, odd = divmod(lose, len(encoder.layers))
            tokens = _run(layer, tokens, share + (done < odd))
        rows = tokens.hidden[front:]
        patches = torch.empty_like(image.patches)
        patches[places] = rows[tokens.owner]
        patches[padding] = tokens.hidden[ahead:front]
        worth = 1.0 / tokens.sizes[front:][tokens.owner].double()
        if not lose:
            return patches, keep_all(image, worth.cpu())
        merge = merge_matrix(
            image,
            tokens.owner.cpu().numpy(),
            1 + torch.arange(len(places)).numpy(),
            worth.cpu().numpy(),
            len(rows),
        )
        scores = torch.zeros(len(image), dtype=torch.float32, device=patches.device)
        scores[places] = (worth / len(rows)).float()
        return patches, Selection(places[tokens.stands], scores, merge, rows)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """What goes from layer to layer.

    Attributes:
        hidden: float [F + T, D]: F rows that are never merged, T tokens.
        sizes: float32 [F + T]: how many patches each stands for.
        front: F.
        owner: int64 [n]: of each patch that may be merged its token, 0 to T - 1.
        stands: int64 [T]: of each token the patch at whose place it lies, ascending.
    """

    hidden: Tensor
    sizes: Tensor
    front: int
    owner: Tensor
    stands: Tensor

    @classmethod
    def single(cls, hidden: Tensor, front: int) -> _Tokens:
        """Every row a token of its own."""
        places = torch.arange(len(hidden) - front, device=hidden.device)
        sizes = torch.ones(len(hidden), dtype=torch.float32, device=hidden.device)
        return cls(hidden, sizes, front, places, places)


def _run(layer: Any, tokens: _Tokens, lose: int) -> _Tokens:
    """One layer of the encoder, with `lose` tokens fewer behind its attention."""
    attention = layer.self_attn
    normed = layer.layer_norm1(tokens.hidden)
    split = (-1, attention.num_heads, attention.head_dim)
    keys = attention.k_proj(normed).view(split)  # [F + T, heads, head size]
    # [1, heads, F + T, head size]
    query, key, value = (
        part.view(split).transpose(0, 1)[None]
        for part in (attention.q_proj(normed), keys, attention.v_proj(normed))
    )
    merged_before = len(tokens.owner) > len(tokens.stands)
    weight = tokens.sizes.log().to(query.dtype)[None, None, None] if merged_before else None
    seen = F.scaled_dot_product_attention(query, key, value, weight, scale=attention.scale)
    seen = attention.out_proj(seen[0].transpose(0, 1).flatten(1))
    tokens = replace(tokens, hidden=tokens.hidden + seen)
    metric = keys[tokens.front :].float().mean(dim=1)
    while lose:
        now = min(lose, (len(metric) + 1) // 2)
        tokens, metric = _merge(tokens, metric, now)
        lose -= now
    return replace(tokens, hidden=tokens.hidden + layer.mlp(layer.layer_norm2(tokens.hidden)))


def _merge(tokens: _Tokens, metric: Tensor, count: int) -> tuple[_Tokens, Tensor]:
    """Merge `count` tokens into others, at most the even half. Also of `metric` [T, d]."""
    front, total = tokens.front, len(metric)
    even = torch.arange(0, total, 2, device=metric.device)
    odd = torch.arange(1, total, 2, device=metric.device)
    directions = F.normalize(metric.double(), dim=1)
    likeness = directions[even] @ directions[odd].T
    best = likeness.amax(dim=1)
    # On every device the first of equal ones: neither argmax nor topk promise that.
    first = torch.where(likeness >= best[:, None] - TIE, odd, total).amin(dim=1)
    ranking = torch.sort((best / TIE).round(), descending=True, stable=True).indices
    gone, into = even[ranking[:count]], first[ranking[:count]]
    kept = torch.cat([even[ranking[count:]], odd]).sort().values
    place = torch.empty(total, dtype=torch.int64, device=metric.device)
    place[kept] = torch.arange(total - count, device=metric.device)
    place[gone] = place[into]

    # Sums by a product with zeros and ones: `index_add_` adds up in any order on a GPU.
    joins = (
        place[gone][None] == torch.arange(total - count, device=metric.device)[:, None]
    ).float()
    sizes = tokens.sizes[front:]
    sum_sizes = sizes[kept] + joins @ sizes[gone]
    grown = (sum_sizes > sizes[kept])[:, None]

    def mean(rows: Tensor) -> Tensor:
        weighted = rows.float() * sizes[:, None]
        together = (weighted[kept] + joins @ weighted[gone]) / sum_sizes[:, None]
        return torch.where(grown, together.to(rows.dtype), rows[kept])

    merged = _Tokens(
        hidden=torch.cat([tokens.hidden[:front], mean(tokens.hidden[front:])]),
        sizes=torch.cat([tokens.sizes[:front], sum_sizes]),
        front=front,
        owner=place[tokens.owner],
        stands=tokens.stands[kept],
    )
    return merged, mean(metric)
