# SPDX-License-Identifier: Apache-2.0
"""Pictures from and to files, through OpenCV, with one sentence for whatever is wrong with them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images.decoding import DamagedError, check_jpeg
from svd_vlm_ros.images.files import TruncatedError, UnknownFormatError, picture_size
from svd_vlm_ros.images.messages import MAX_PIXELS


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as uint8 [H, W, 3] in RGB, turned upright as its EXIF data say.

    Raises `UserError` where there is no such file, it is no picture, too large a one, or its end is
    missing: a decoder fills a cut JPEG with grey, and an answer about grey would be no answer about
    the picture.
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
    _check_file(path, data)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UserError(f"OpenCV can't read {path}: {error.err}.") from error
    if picture is None:
        raise UserError(f"{path} is broken or no picture: OpenCV reads JPEG, PNG, WebP, TIFF, BMP.")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _check_file(path: Path, data: bytes) -> None:
    """Raise `UserError` on a JPEG, PNG or WebP that is cut, damaged or too large."""
    try:
        width, height = picture_size(data)
    except UnknownFormatError:
        return  # TIFF, BMP: OpenCV decodes them whole or not at all
    except TruncatedError:
        raise UserError(
            f"The end of {path} is missing: copy or record the picture again."
        ) from None
    except UserError as error:
        raise UserError(f"Can't read {path}: {error}.") from error
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path} has {width}x{height} pixels, more than {MAX_PIXELS}: make it smaller."
        )
    try:
        check_jpeg(data)
    except DamagedError as error:
        raise UserError(
            f"{path} is a damaged JPEG ({error.reason}): copy or record the image again."
        ) from error


def check_writable(path: Path) -> None:
    """Raise `UserError` where a file could not be written, before hours of work. Leaves no trace.

    The file is opened and not only its rights looked at: these say nothing of a read-only disk.
    """
    new = not path.exists()
    try:
        with path.open("ab"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise UserError(
            f"Can't write {path} ({error.strerror or error}): choose another place."
        ) from error


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
