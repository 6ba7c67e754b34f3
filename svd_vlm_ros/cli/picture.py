# SPDX-License-Identifier: Apache-2.0
"""Pictures from and to files, through OpenCV, with one sentence for whatever is wrong with them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from svd_vlm_ros.errors import UserError

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
SCAN = 0xDA  # the JPEG marker before the picture's data


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as uint8 [H, W, 3] in RGB, turned upright as its EXIF data say.

    Raises `UserError` where there is no such file, it is no picture, or its end is missing: a
    decoder fills a cut JPEG with grey, and an answer about grey would be no answer about the
    picture.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no picture {path}: check the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name a picture in it.") from None
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror or error}.") from error
    if not data:
        raise UserError(f"{path} is empty: there is no picture in it.")
    if is_cut(data):
        raise UserError(f"The end of {path} is missing: copy or record the picture again.")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UserError(f"OpenCV can't read {path}: {error.err}.") from error
    if picture is None:
        raise UserError(f"{path} is broken or no picture: OpenCV reads JPEG, PNG, WebP, TIFF, BMP.")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def is_cut(data: bytes) -> bool:
    """Whether the end of a JPEG or PNG file is missing. Files of other kinds: False."""
    if data.startswith(PNG_START):
        return PNG_END not in data
    if not data.startswith(JPEG_START):
        return False
    # Walk over the segments before the scan: a thumbnail in them has an end marker of its own.
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == SCAN:
            return data.find(JPEG_END, at) < 0
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 RGB [H, W, 3] in the format of the name's ending. `UserError` where it can't."""
    try:
        done, data = cv2.imencode(path.suffix or ".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    except cv2.error:
        done = False
    if not done:
        raise UserError(f"OpenCV writes no '{path.suffix}' files: name the picture .png or .jpg.")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(f"Can't write {path}: {error.strerror or error}.") from error
