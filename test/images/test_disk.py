# SPDX-License-Identifier: Apache-2.0
"""Images from and to files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images.disk import read_image, write_image
from svd_vlm_ros.images.messages import to_rgb


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def encoded(ending: str, image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(ending, image, options)[1].tobytes()


def test_what_was_written_is_read_as_rgb(tmp_path: Path, noise: np.ndarray) -> None:
    path = tmp_path / "image.png"
    write_image(path, noise)
    assert (read_image(path) == noise).all()
    assert (cv2.imread(str(path))[..., ::-1] == noise).all()


@pytest.mark.parametrize(
    "image",
    [
        np.full((8, 8), 77, np.uint8),
        np.full((8, 8, 4), 77, np.uint8),
        np.full((8, 8), 77 * 257, np.uint16),
    ],
    ids=["grey", "alpha", "16 bit"],
)
def test_other_kinds_of_png_become_rgb(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(".png", image))
    assert (read_image(path) == np.full((8, 8, 3), 77)).all()


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.98])
def test_a_cut_file_is_refused(tmp_path: Path, noise: np.ndarray, ending: str, part: float) -> None:
    data = encoded(ending, noise)
    path = tmp_path / f"cut{ending}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError, match=r"The end of .* is missing"):
        read_image(path)


def test_an_image_too_large_to_decode_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    data = bytearray(encoded(".png", np.zeros((8, 8), np.uint8)))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(UserError, match="60000x60000 pixels"):
        read_image(path)


def test_webp_is_read(tmp_path: Path, noise: np.ndarray) -> None:
    path = tmp_path / "image.webp"
    write_image(path, noise)
    assert read_image(path).shape == noise.shape


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no image"),
        (b"", "is empty"),
        (b"no image at all", "is broken or not an image"),
        (b"\xff\xd8\xff", "The end of"),
        (b"\xff\xd8" + bytes(100), "it is a broken JPEG: no marker"),
    ],
)
def test_what_is_no_image_gets_a_sentence(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "it.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_image(path)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_image(tmp_path)


def test_unknown_endings_and_folders_that_are_not_there(tmp_path: Path, noise: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"no '\.txt' files"):
        write_image(tmp_path / "image.txt", noise)
    with pytest.raises(UserError, match="Can't write"):
        write_image(tmp_path / "nowhere" / "image.png", noise)


def turned(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with this orientation in its EXIF data."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_files_are_turned_upright_and_topics_are_not(
    tmp_path: Path, noise: np.ndarray, orientation: int, turns: int
) -> None:
    data = turned(encoded(".jpg", noise[..., ::-1]), orientation)
    stored = to_rgb(SimpleNamespace(format="jpeg", data=data))
    path = tmp_path / "turned.jpg"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path), np.rot90(stored, turns))


def test_a_damaged_jpeg_file_is_refused(tmp_path: Path, noise: np.ndarray) -> None:
    data = encoded(".jpg", noise)
    path = tmp_path / "damaged.jpg"
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with pytest.raises(UserError, match=r"is a damaged JPEG \(.*\): copy or record"):
        read_image(path)
