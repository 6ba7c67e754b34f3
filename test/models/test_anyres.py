"""Tiles of any resolution, against transformers' own packing and against what an image shows where.

The sizes are those of published models; there are no weights.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models import family_of
from svd_vlm_ros.models.interface import ModelOptions
from svd_vlm_ros.models.llava_next.anyres import Anyres, frame

NEXT, ONEVISION = "random:llava-next-7b", "random:llava-onevision-0.5b"
# Height and width: cameras' own, the longest that are looked at, and the smallest that there are.
SHAPES = [
    *[(480, 640), (720, 1280), (1080, 1920), (1920, 1080), (2160, 3840), (333, 777), (64, 64)],
    *[(50, 2500), (2500, 50), (1, 1), (2, 1), (1, 50), (50, 1), (3, 17)],
]


def config_of(name):
    return family_of(name).random_config(name)


def images_of(name, **bounds):
    return family_of(name).image_processor(None, config_of(name), ModelOptions(**bounds))


def packed(name, rows, height, width, newline=None):
    """Rows [tiles, n, d] by the model's own function, which looks at its configuration alone."""
    model = SimpleNamespace(config=config_of(name))
    sizes = torch.tensor([[height, width]])
    if name == NEXT:
        made = LlavaNextModel.pack_image_features(model, [rows], sizes, "default", newline)
    else:
        made = LlavaOnevisionModel.pack_image_features(model, [rows], sizes, newline)
    return made[0][0]


@pytest.mark.parametrize(
    ("name", "shape", "rows", "newlines", "tiles"),
    [
        (NEXT, (480, 640), 2340, 36, 4),
        (NEXT, (720, 1280), 1948, 28, 4),
        (ONEVISION, (480, 640), 2929, 40, 4),
        (ONEVISION, (720, 1280), 5967, 54, 8),
    ],
)
def test_the_published_number_of_visual_tokens(name, shape, rows, newlines, tiles):
    framing = frame(Anyres.of(config_of(name), ModelOptions()), *shape)
    assert framing.packing.tiles[0] * framing.packing.tiles[1] == tiles
    assert framing.tiles[1].grid[0] == newlines
    assert sum(rows * columns for rows, columns in (t.grid for t in framing.tiles)) == (
        rows - newlines
    )
    if shape == (480, 640):
        assert images_of(name).tokens == rows - newlines


@pytest.mark.parametrize("name", [NEXT, ONEVISION])
@pytest.mark.parametrize("shape", SHAPES)
def test_patches_are_packed_as_the_model_packs_them(name, shape):
    framing = frame(Anyres.of(config_of(name), ModelOptions()), *shape)
    packing = framing.packing
    tiles = 1 + packing.tiles[0] * packing.tiles[1]
    rows = torch.randn(tiles, packing.side**2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(packing.pack(rows), packed(name, rows, *shape))
    marks = packed(name, torch.zeros_like(rows[..., :1]), *shape, torch.tensor([-1.0]))
    assert int((marks < 0).sum()) == sum(tile.grid[0] for tile in framing.tiles[1:])


def test_full_hd_is_shrunk_by_onevision_alone():
    assert frame(Anyres.of(config_of(ONEVISION), ModelOptions()), 1080, 1920).packing.shrinks
    assert not frame(Anyres.of(config_of(NEXT), ModelOptions()), 1080, 1920).packing.shrinks


@pytest.mark.parametrize("name", [NEXT, ONEVISION])
@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (1080, 1920), (900, 400), (200, 1400)])
def test_boxes_are_where_the_patches_pixels_come_from(name, shape):
    height, width = shape
    across, down = (255 * (np.arange(size) + 0.5) / size for size in (width, height))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0], image[..., 1] = across[None].round(), down[:, None].round()
    images = images_of(name)
    made = images(image, "pad")
    framing, packing = made.framing, made.framing.packing
    patch, side = images.anyres.patch, packing.side
    mean, std = (
        torch.tensor(list(numbers))[:, None, None]
        for numbers in (images.processor.image_mean, images.processor.image_std)
    )
    seen = (made.pixels * std + mean)[:, :2, : side * patch, : side * patch]
    means = seen.reshape(len(seen), 2, side, patch, side, patch).mean(dim=(3, 5))
    places = packing.pack(means.flatten(2).transpose(1, 2))
    boxes = torch.tensor([framing.patch_box(index) for index in range(len(places))])
    sizes = boxes[:, 2:] - boxes[:, :2]
    thumbnail = side**2
    for part in (slice(None, thumbnail), slice(thumbnail, None)):
        # What is cut off at the padding has the padding's black in its mean.
        whole = (sizes[part] > 0.99 * sizes[part].median(dim=0).values).all(dim=1)
        assert whole.float().mean() > 0.8
        middle = (boxes[part, :2] + boxes[part, 2:])[whole] / 2 / torch.tensor([width, height])
        assert torch.allclose(places[part][whole], middle, atol=0.0025)
    assert bool((boxes >= 0).all())
    assert bool((boxes[:, 2] <= width).all())
    assert bool((boxes[:, 3] <= height).all())
    valid = framing.valid()
    empty = (sizes <= 0).any(dim=1)
    assert not bool(empty.any()) if valid is None else torch.equal(~valid, empty)


def test_an_index_outside_is_no_patch():
    framing = frame(Anyres.of(config_of(NEXT), ModelOptions()), 480, 640)
    with pytest.raises(IndexError, match="no patch 2304"):
        framing.patch_box(2304)


@pytest.mark.parametrize("name", [NEXT, ONEVISION])
def test_bounds_of_pixels_choose_among_the_shapes(name):
    tile = config_of(name).vision_config.image_size
    smaller = images_of(name, max_pixels=2 * tile**2)
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    assert len(smaller(image, "pad").pixels) == 3  # the thumbnail and two tiles
    assert smaller.tokens < images_of(name).tokens
    larger = images_of(name, min_pixels=3 * tile**2)
    assert len(larger(image[:100, :100], "pad").pixels) >= 4
    with pytest.raises(UserError, match="none of 0 to 1000: set min_pixels and max_pixels"):
        images_of(name, max_pixels=1000)
