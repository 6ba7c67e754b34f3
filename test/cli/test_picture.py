# SPDX-License-Identifier: Apache-2.0
"""Pictures from and to files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from svd_vlm_ros.cli.picture import is_cut, read_picture, write_picture
from svd_vlm_ros.errors import UserError


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def encoded(ending: str, picture: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(ending, picture, options)[1].tobytes()


def test_what_was_written_is_read_as_rgb(tmp_path: Path, noise: np.ndarray) -> None:
    path = tmp_path / "picture.png"
    write_picture(path, noise)
    assert (read_picture(path) == noise).all()
    assert (cv2.imread(str(path))[..., ::-1] == noise).all()


@pytest.mark.parametrize(
    "picture",
    [
        np.full((8, 8), 77, np.uint8),
        np.full((8, 8, 4), 77, np.uint8),
        np.full((8, 8), 77 * 257, np.uint16),
    ],
    ids=["grey", "alpha", "16 bit"],
)
def test_other_kinds_of_png_become_rgb(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(".png", picture))
    assert (read_picture(path) == np.full((8, 8, 3), 77)).all()


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.98])
def test_a_cut_file_is_refused(tmp_path: Path, noise: np.ndarray, ending: str, part: float) -> None:
    data = encoded(ending, noise)
    path = tmp_path / f"cut{ending}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError, match=r"The end of .* is missing"):
        read_picture(path)


def test_a_cut_jpeg_with_a_whole_thumbnail_is_refused(noise: np.ndarray) -> None:
    data = encoded(".jpg", noise)
    thumbnail = encoded(".jpg", noise[:8, :8])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    assert not is_cut(whole)
    assert is_cut(whole[:-20])


def test_progressive_jpegs_and_what_follows_the_end_are_no_trouble(noise: np.ndarray) -> None:
    data = encoded(".jpg", noise, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert not is_cut(data)
    assert not is_cut(data + b"a film of two seconds")
    assert is_cut(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no picture"),
        (b"", "is empty"),
        (b"no picture at all", "is broken or no picture"),
        (b"\xff\xd8\xff", "The end of"),
        (b"\xff\xd8" + bytes(100), "The end of"),
    ],
)
def test_what_is_no_picture_gets_a_sentence(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "it.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_picture(path)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_picture(tmp_path)


def test_unknown_endings_and_folders_that_are_not_there(tmp_path: Path, noise: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"no '\.txt' files"):
        write_picture(tmp_path / "picture.txt", noise)
    with pytest.raises(UserError, match="Can't write"):
        write_picture(tmp_path / "nowhere" / "picture.png", noise)
