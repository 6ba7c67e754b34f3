# SPDX-License-Identifier: Apache-2.0
"""Pictures of ROS messages to RGB arrays: the one place where pixels are converted.

    sensor_msgs/Image            any of `ENCODINGS`, padded rows, either byte order
    sensor_msgs/CompressedImage  JPEG and PNG, also grey, 16-bit and with alpha

Every message is checked as a whole before a pixel is touched: what is malformed raises `UserError`
with the reason, and no input gives a wrong picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.pictures.files import picture_size

Convert = Callable[[np.ndarray, str], np.ndarray]
"""(pixels, cv_bridge's name of their encoding) -> uint8 RGB [H, W, 3]"""

MAX_PIXELS = 50_000_000  # default of the limit below; 50 million pixels are 150 MB of RGB
_SHOWN = 40  # characters of a message's text that a sentence repeats
_NUMBERS = re.compile(r"(8|16|32|64)[USF]C\d{1,3}")  # OpenCV's types, such as 32FC1 and 16UC1


@dataclass(frozen=True)
class _Encoding:
    """How a pixel lies in the data, and OpenCV's conversion of it to RGB (None: it is RGB)."""

    channels: int
    itemsize: int
    code: int | None
    bridge_name: str  # cv_bridge of older distributions knows the yuv encodings by these names only
    columns_even: bool = False  # two pixels share their colour
    mosaic: bool = False


def _bayer(name: str, code: int) -> _Encoding:
    return _Encoding(1, 1, code, name, mosaic=True)


_UYVY = _Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, "yuv422", columns_even=True)
_YUYV = _Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, "yuv422_yuy2", columns_even=True)

# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first two
# rows' first two.
ENCODINGS: dict[str, _Encoding] = {
    "rgb8": _Encoding(3, 1, None, "rgb8"),
    "bgr8": _Encoding(3, 1, cv2.COLOR_BGR2RGB, "bgr8"),
    "rgba8": _Encoding(4, 1, cv2.COLOR_RGBA2RGB, "rgba8"),
    "bgra8": _Encoding(4, 1, cv2.COLOR_BGRA2RGB, "bgra8"),
    "mono8": _Encoding(1, 1, cv2.COLOR_GRAY2RGB, "mono8"),
    "mono16": _Encoding(1, 2, cv2.COLOR_GRAY2RGB, "mono16"),
    "bayer_rggb8": _bayer("bayer_rggb8", cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _bayer("bayer_bggr8", cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _bayer("bayer_gbrg8", cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _bayer("bayer_grbg8", cv2.COLOR_BayerGB2RGB),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
}


def to_rgb(
    message: Any, max_pixels: int = MAX_PIXELS, convert: Convert | None = None
) -> np.ndarray:
    """The picture of a sensor_msgs Image or CompressedImage as uint8 [H, W, 3], RGB, contiguous.

    The array may share the message's memory (rgb8 without padding), so treat it as read-only.

    `max_pixels` bounds H * W and is checked before anything is decoded. `convert`: what changes the
    colours of raw pictures in OpenCV's place. Raises `UserError` whose sentence names what is wrong
    with the message.
    """
    if hasattr(message, "encoding"):
        return _raw_to_rgb(message, max_pixels, convert)
    return _compressed_to_rgb(message, max_pixels)


def _raw_to_rgb(message: Any, max_pixels: int, convert: Convert | None) -> np.ndarray:
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise UserError(_refused_encoding(message.encoding))
    pixels = _unpack(message, encoding, max_pixels)
    if encoding.code is None:
        return pixels
    if convert is not None:
        return convert(pixels, encoding.bridge_name)
    return _to_rgb8(pixels, encoding.code)


def _refused_encoding(name: str) -> str:
    if _NUMBERS.fullmatch(name):
        return (
            f"its encoding '{name}' holds plain numbers such as distances (NaN among them), not "
            "colours: choose the topic of a colour picture"
        )
    return f"its encoding '{_shown(name)}' is not one of {', '.join(ENCODINGS)}"


def _shown(text: str) -> str:
    """A text out of a message as a log can bear it: short, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])


def _unpack(message: Any, encoding: _Encoding, max_pixels: int) -> np.ndarray:
    """The pixels as [H, W] or [H, W, channels], native byte order, rows without padding."""
    width, height, step = message.width, message.height, message.step
    _check_size(width, height, max_pixels)
    if encoding.columns_even and width % 2:
        raise UserError(f"its width {width} is odd, but {message.encoding} stores pixels in pairs")
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
        return words.astype(np.uint16, copy=False)
    return rows if encoding.channels == 1 else rows.reshape(height, width, encoding.channels)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise UserError(f"its size is {width}x{height}")
    if width * height > max_pixels:
        raise UserError(
            f"its size {width}x{height} is over the limit of {max_pixels} pixels (parameter "
            "max_image_pixels)"
        )


def _to_rgb8(pixels: np.ndarray, code: int) -> np.ndarray:
    return cv2.cvtColor(_to_8_bit(pixels), code)


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """16-bit values over 257, rounded: 65535 becomes 255. 8-bit pixels are left as they are."""
    if pixels.dtype == np.uint16:
        return cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0)
    return pixels


def _compressed_to_rgb(message: Any, max_pixels: int) -> np.ndarray:
    data = memoryview(message.data).cast("B")
    width, height = picture_size(data)
    _check_size(width, height, max_pixels)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != (height, width):
        raise UserError(
            f"its {len(data)} bytes of {_shown(message.format) or 'data'} cannot be decoded"
        )
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"its pixels are of type {pixels.dtype}, not 8 or 16 bits")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        return _to_rgb8(pixels.reshape(height, width), _grey_code(message.format, width, height))
    return _to_rgb8(pixels, cv2.COLOR_BGRA2RGB if channels == 4 else cv2.COLOR_BGR2RGB)


def _grey_code(label: str, width: int, height: int) -> int:
    """A grey file is grey, unless its format says "bayer_...; jpeg compressed": then a mosaic."""
    source = ENCODINGS.get(re.split(r"[;\s]", label, maxsplit=1)[0])
    if source is not None and source.mosaic and source.code is not None and min(width, height) > 1:
        return source.code
    return cv2.COLOR_GRAY2RGB
