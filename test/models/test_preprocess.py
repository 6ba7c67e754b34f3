# SPDX-License-Identifier: Apache-2.0
"""Pixel values equal those of transformers' processor; boxes lie where the patches look."""

import json

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.llava.preprocess import ImageSettings, preprocess

SETTINGS = ImageSettings(
    size=336,
    patch=14,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    rescale=1 / 255,
    resample=3,
)
SIZES = [
    *((480, 640), (1080, 1920), (336, 336), (100, 101), (1, 1), (640, 480), (37, 999)),
    *((999, 50), (336, 337), (3, 100), (200, 200), (335, 336), (2, 1)),
]


def noise(height, width):
    generator = np.random.default_rng(height * 10_000 + width)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_pixels_equal_those_of_the_processor(aspect, size):
    image = noise(*size)
    processor = LlavaImageProcessorPil(
        do_pad=aspect == "pad",
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_mean=list(SETTINGS.mean),
        image_std=list(SETTINGS.std),
    )
    wanted = processor(image, input_data_format="channels_last", return_tensors="pt")
    made = preprocess(image, SETTINGS, aspect).pixels
    assert made.dtype == torch.float32
    assert torch.equal(made, wanted["pixel_values"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_boxes_lie_in_the_image_side_by_side(aspect, size):
    height, width = size
    framing = preprocess(noise(*size), SETTINGS, aspect).framing
    boxes = np.array([framing.patch_box(index) for index in range(576)]).reshape(24, 24, 4)
    assert boxes.min() >= 0
    assert boxes[..., 2].max() <= width
    assert boxes[..., 3].max() <= height
    np.testing.assert_allclose(boxes[:, 1:, 0], boxes[:, :-1, 2], atol=1e-9)
    np.testing.assert_allclose(boxes[1:, :, 1], boxes[:-1, :, 3], atol=1e-9)
    area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sum()
    shown = height * width if aspect == "pad" else min(height, width) ** 2
    # A resized side is a whole number of pixels, which moves the edges of a crop a little.
    assert area == pytest.approx(shown, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_valid_patches_are_those_that_show_some_of_the_image(size):
    framing = preprocess(noise(*size), SETTINGS, "pad").framing
    valid = framing.valid()
    boxes = [framing.patch_box(index) for index in range(576)]
    shown = [x1 - x0 > 1e-6 and y1 - y0 > 1e-6 for x0, y0, x1, y1 in boxes]
    assert (valid.tolist() if valid is not None else [True] * 576) == shown
    assert preprocess(noise(*size), SETTINGS, "crop").framing.valid() is None


def test_a_box_is_where_its_patch_looks():
    # A white spot of one patch's size, placed at a patch's box, is seen by that patch alone.
    image = np.zeros((480, 640, 3), np.uint8)
    for aspect, index in (("pad", 100), ("pad", 301), ("crop", 0), ("crop", 575), ("crop", 250)):
        framing = preprocess(image, SETTINGS, aspect).framing
        x0, y0, x1, y1 = (round(edge) for edge in framing.patch_box(index))
        spotted = image.copy()
        spotted[y0:y1, x0:x1] = 255
        change = preprocess(spotted, SETTINGS, aspect).pixels - (
            preprocess(image, SETTINGS, aspect).pixels
        )
        patches = change[0].unfold(1, 14, 14).unfold(2, 14, 14).abs().sum((0, 3, 4)).flatten()
        assert int(patches.argmax()) == index
        assert float(patches[index]) > 0.8 * float(patches.sum())


def test_a_patch_outside_the_grid_has_no_box():
    framing = preprocess(noise(10, 10), SETTINGS, "pad").framing
    for index in (-1, 576):
        with pytest.raises(IndexError):
            framing.patch_box(index)


def write(folder, **changes):
    settings = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    settings |= {"image_mean": SETTINGS.mean, "image_std": SETTINGS.std} | changes
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return ImageSettings.from_folder(folder, CLIPVisionConfig(image_size=336, patch_size=14))


def test_settings_come_from_either_file(tmp_path):
    assert write(tmp_path) == SETTINGS
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": content}))
    vision = CLIPVisionConfig(image_size=336, patch_size=14)
    assert ImageSettings.from_folder(tmp_path, vision) == SETTINGS
    assert SETTINGS.grid == (24, 24)


def test_settings_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(UserError, match=r"images of \[224\] pixels, its tower wants 336"):
        write(tmp_path, size={"shortest_edge": 224})
    with pytest.raises(UserError, match="do not belong together"):
        write(tmp_path, crop_size={"height": 336, "width": 224})
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match="missing"):
        ImageSettings.from_folder(tmp_path, CLIPVisionConfig(image_size=336, patch_size=14))
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        ImageSettings.from_folder(tmp_path, CLIPVisionConfig(image_size=336, patch_size=14))
