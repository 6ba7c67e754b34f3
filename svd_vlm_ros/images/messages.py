# SPDX-License-Identifier: Apache-2.0
"""Images of ROS messages to RGB arrays: the one place where pixels are converted.

    sensor_msgs/Image            any of `encodings.ENCODINGS`, padded rows, either byte order
    sensor_msgs/CompressedImage  JPEG, PNG and WebP, also grey, 16-bit and with alpha

Every message is checked as a whole before a pixel is touched: what is malformed or damaged raises
`UserError` with the reason, and no input gives a wrong image as far as its format can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images.decoding import DamagedError, decode
from svd_vlm_ros.images.encodings import (
    ENCODINGS,
    Encoding,
    find_encoding,
    shown,
    source_encoding,
)
from svd_vlm_ros.images.files import image_size

__all__ = ["ENCODINGS", "MAX_PIXELS", "Convert", "DamagedError", "to_rgb"]

Convert = Callable[[np.ndarray, str], np.ndarray]
"""(pixels, cv_bridge's name of their encoding) -> uint8 RGB [H, W, 3]"""

MAX_PIXELS = 50_000_000  # default of the limit below; 50 million pixels are 150 MB of RGB
# Sensors of 12 and 14 bits are sent in 16, and many drivers leave the upper bits empty.
_BITS = (12, 14, 16)
# ITU-R BT.601 of limited range, as OpenCV's other conversions of YUV: (Y, U, V, 1) to (R, G, B).
_BT601 = np.array([[1.164, 0.0, 1.596, 0.0], [1.164, -0.391, -0.813, 0.0], [1.164, 2.018, 0, 0.0]])
_BT601[:, 3] = -_BT601[:, :3] @ (16.0, 128.0, 128.0)


def to_rgb(
    message: Any,
    max_pixels: int = MAX_PIXELS,
    convert: Convert | None = None,
    allow_damaged: bool = False,
) -> np.ndarray:
    """The image of a sensor_msgs Image or CompressedImage as uint8 [H, W, 3], RGB, contiguous.

    The array may share the message's memory (rgb8 without padding), so treat it as read-only.

    `max_pixels` bounds H * W and is checked before anything is decoded. `convert`: what changes the
    colours of raw images in OpenCV's place. Raises `UserError` whose sentence names what is wrong
    with the message, `DamagedError` on a damaged JPEG unless `allow_damaged`.
    """
    if hasattr(message, "encoding"):
        return _raw_to_rgb(message, max_pixels, convert)
    return _compressed_to_rgb(message, max_pixels, allow_damaged)


def _raw_to_rgb(message: Any, max_pixels: int, convert: Convert | None) -> np.ndarray:
    encoding = find_encoding(message.encoding)
    pixels = _to_8_bit(_unpack(message, encoding, max_pixels))
    if encoding.chroma == 2.0:
        return _nv24_to_rgb(pixels)
    if encoding.code is None:
        return pixels
    if convert is not None and encoding.bridge_name:
        return convert(pixels, encoding.bridge_name)
    return cv2.cvtColor(pixels, encoding.code)


def _nv24_to_rgb(rows: np.ndarray) -> np.ndarray:
    """A row of luma for each pixel row, then twice as many bytes of U and V by turns."""
    height, width = rows.shape[0] // 3, rows.shape[1]
    chroma = rows[height:].reshape(height, width, 2)
    return cv2.transform(np.dstack([rows[:height], chroma]), _BT601)


def _unpack(message: Any, encoding: Encoding, max_pixels: int) -> np.ndarray:
    """The pixels as [H, W] or [H, W, channels], native byte order, rows without padding."""
    width, height, step = message.width, message.height, message.step
    _check_size(width, height, max_pixels)
    if encoding.columns_even and width % 2:
        raise UserError(f"its width {width} is odd, but {message.encoding} stores pixels in pairs")
    if encoding.rows_even and height % 2:
        raise UserError(f"its height {height} is odd, but {message.encoding} stores rows in pairs")
    if encoding.mosaic and min(width, height) < 2:
        raise UserError(
            f"its size {width}x{height} is too small for the pattern {message.encoding}"
        )
    row = width * encoding.channels * encoding.itemsize
    if step < row:
        raise UserError(
            f"its step is {step} bytes, but a row of {width} pixels in {message.encoding} has {row}"
        )
    data = np.frombuffer(message.data, np.uint8)
    height = int(height * (1 + encoding.chroma))  # rows of bytes
    whole = height * step
    # Some drivers leave out the padding of the last row.
    if not whole - (step - row) <= data.size <= whole:
        raise UserError(
            f"its data has {data.size} bytes, but height {height} times step {step} is {whole}"
        )
    rows = np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)
    rows = np.ascontiguousarray(rows)
    if encoding.itemsize == 2:
        words = rows.view(">u2" if message.is_bigendian else "<u2")
        rows = words.astype(np.uint16, copy=False)
    return rows if encoding.channels == 1 else rows.reshape(height, width, encoding.channels)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise UserError(f"its size is {width}x{height}")
    if width * height > max_pixels:
        raise UserError(
            f"its size {width}x{height} is over the limit of {max_pixels} pixels (parameter "
            "max_image_pixels)"
        )


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """16-bit values brought into 8 bits, rounded; the fewest of `_BITS` that hold them are white.

    So 65535 becomes 255, and 4095 too if nothing is brighter. 8-bit pixels are left as they are.
    """
    if pixels.dtype != np.uint16:
        return pixels
    brightest = int(pixels.max())
    white = next((1 << bits) - 1 for bits in _BITS if brightest < 1 << bits)
    return cv2.convertScaleAbs(pixels, alpha=255.0 / white)


def _compressed_to_rgb(message: Any, max_pixels: int, allow_damaged: bool) -> np.ndarray:
    source = source_encoding(message.format)
    data = memoryview(message.data).cast("B")
    width, height = image_size(data)
    _check_size(width, height, max_pixels)
    pixels = decode(data, allow_damaged)
    if pixels is None or pixels.shape[:2] != (height, width):
        raise UserError(
            f"its {len(data)} bytes of {shown(message.format) or 'data'} cannot be decoded"
        )
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"its pixels are of type {pixels.dtype}, not 8 or 16 bits")
    if pixels.ndim == 2:
        return cv2.cvtColor(_to_8_bit(pixels), _grey_code(source, pixels, message.format))
    pixels = _to_8_bit(pixels)
    return cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB) if pixels.shape[2] == 4 else pixels


def _grey_code(source: Encoding | None, pixels: np.ndarray, label: str) -> int:
    """A grey file is grey, unless its format says "bayer_...; jpeg compressed": then a mosaic.

    Raises `UserError` on a 16-bit one whose format does not say what it is: distances are sent so.
    """
    grey = source if source is not None and source.channels == 1 and not source.chroma else None
    if pixels.dtype == np.uint16 and (grey is None or grey.itemsize != 2):
        raise UserError(
            f"its format '{shown(label)}' does not say whether its 16-bit grey is brightness or "
            "distances: publish it as 'mono16; png compressed'"
        )
    if grey is not None and grey.mosaic and grey.code is not None and min(pixels.shape) > 1:
        return grey.code
    return cv2.COLOR_GRAY2RGB
