# SPDX-License-Identifier: Apache-2.0
"""What is read out of JPEG and PNG files before they are decoded."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images.files import (
    MAX_SCANS,
    TruncatedError,
    UnknownFormatError,
    image_size,
)

NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def encoded(ending: str, *options: int) -> bytes:
    return cv2.imencode(ending, NOISE, options)[1].tobytes()


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
def test_the_size_and_every_cut(ending: str) -> None:
    data = encoded(ending)
    assert image_size(data) == (50, 40)
    for length in range(len(data) - 1):
        with pytest.raises(UserError):
            image_size(data[:length])


def test_a_cut_jpeg_with_a_whole_thumbnail() -> None:
    data = encoded(".jpg")
    thumbnail = cv2.imencode(".jpg", NOISE[:8, :8])[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    assert image_size(whole) == (50, 40)
    with pytest.raises(TruncatedError):
        image_size(whole[:-20])


def test_progressive_jpegs_and_what_follows_the_end() -> None:
    data = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert image_size(data) == (50, 40)
    assert image_size(data + b"a film of two seconds") == (50, 40)
    with pytest.raises(TruncatedError):
        image_size(data[: len(data) // 2])


def test_a_jpeg_that_shows_its_image_a_thousand_times() -> None:
    """A decoder would go over the whole image for each scan."""
    data = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(UserError, match=f"{MAX_SCANS} is the most"):
        image_size(data[:-2] + 1000 * scan + data[-2:])


def test_other_kinds() -> None:
    with pytest.raises(UnknownFormatError):
        image_size(encoded(".bmp"))
    with pytest.raises(UserError, match="empty"):
        image_size(b"")
