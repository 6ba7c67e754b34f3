# SPDX-License-Identifier: Apache-2.0
"""Images with all that any selector may ask for: random, small, the same for the same seed."""

from dataclasses import replace

import pytest
import torch

from svd_vlm_ros.selection import Encoder, ImageText, VisualFeatures

WIDTH, HEADS, LAYERS = 16, 2, 3


def _layers():
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=32, num_attention_heads=HEADS, num_hidden_layers=LAYERS
    )
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [CLIPEncoderLayer(config).eval().requires_grad_(False) for _ in range(LAYERS)]
        for layer in layers:
            for weights in layer.parameters():
                if weights.ndim == 2:  # wide, so that attention is not the same everywhere
                    weights.normal_(0.0, 0.5)
    return layers


@pytest.fixture(scope="session")
def layers():
    """The encoder of `make_features`."""
    return _layers()


@pytest.fixture(scope="session")
def make_features(layers):
    """Makes the features of an image: make_features(seed=0, grid=(6, 8), width=16, valid=None)."""

    def unit(*shape, generator):
        rows = torch.randn(*shape, generator=generator)
        return rows / rows.norm(dim=1, keepdim=True)

    def make(seed=0, grid=(6, 8), width=WIDTH, valid=None, space="clip"):
        generator = torch.Generator().manual_seed(seed)
        count = grid[0] * grid[1]
        looks = torch.randn(HEADS, 1 + count, generator=generator).mul(2).softmax(dim=1)
        return VisualFeatures(
            torch.randn(count, width, generator=generator),
            grid,
            valid,
            class_attention=looks[:, 1:],
            class_token=torch.randn(width, generator=generator),
            keys=torch.randn(count, 8, generator=generator),
            class_key=torch.randn(8, generator=generator),
            projected=torch.randn(count, 24, generator=generator),
            image_text=ImageText(
                unit(count, 12, generator=generator),
                unit(1, 12, generator=generator),
                inverted=space == "clip",
            ),
            question=torch.randn(5, 24, generator=generator),
            encoder=Encoder(torch.randn(1, 1 + count, WIDTH, generator=generator), layers),
        )

    return make


@pytest.fixture(scope="session")
def reordered():
    """A function that gives an image's patches another order, or takes some of them only."""

    def make(features, order):
        rows = {name: getattr(features, name)[order] for name in ("patches", "keys", "projected")}
        return replace(
            features,
            **rows,
            grid=features.grid if len(order) == len(features) else (1, len(order)),
            valid=None if features.valid is None else features.valid[order],
            class_attention=features.class_attention[:, order],
            image_text=replace(features.image_text, patches=features.image_text.patches[order]),
            encoder=None,
        )

    return make
