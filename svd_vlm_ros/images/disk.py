# SPDX-License-Identifier: Apache-2.0
"""Images from and to files, through OpenCV, with one sentence for whatever is wrong with them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images.decoding import DamagedError, check_jpeg
from svd_vlm_ros.images.files import TruncatedError, UnknownFormatError, image_size
from svd_vlm_ros.images.messages import MAX_PIXELS


def read_image(path: Path) -> np.ndarray:
    """Read an image as uint8 [H, W, 3] in RGB, turned upright by its EXIF data.

    Raises `UserError` if there is no such file, it is not an image, too large, or its end is
    missing: a decoder fills a cut JPEG with grey, and an answer about grey would be no answer about
    the image.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no image {path}: check the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name an image in it.") from None
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror or error}.") from error
    if not data:
        raise UserError(f"{path} is empty: there is no image in it.")
    _check_file(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UserError(f"OpenCV can't read {path}: {error.err}.") from error
    if image is None:
        raise UserError(
            f"{path} is broken or not an image: OpenCV reads JPEG, PNG, WebP, TIFF, BMP."
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_file(path: Path, data: bytes) -> None:
    """Raise `UserError` on a JPEG, PNG or WebP that is cut, damaged or too large."""
    try:
        width, height = image_size(data)
    except UnknownFormatError:
        return  # TIFF, BMP: OpenCV decodes them whole or not at all
    except TruncatedError:
        raise UserError(f"The end of {path} is missing: copy or record the image again.") from None
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
    """Raise `UserError` if a file could not be written, before hours of work. Leaves no trace.

    The file is opened: its permissions alone would not show that a disk is read-only.
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


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 RGB [H, W, 3] in the format of the name's ending. `UserError` if it can't."""
    try:
        done, data = cv2.imencode(path.suffix or ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        done = False
    if not done:
        raise UserError(f"OpenCV writes no '{path.suffix}' files: name the image .png or .jpg.")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(f"Can't write {path}: {error.strerror or error}.") from error
