# SPDX-License-Identifier: Apache-2.0
"""Pictures of ROS messages to RGB arrays: the one place where pixels are converted.

    sensor_msgs/Image            any of `ENCODINGS`, padded rows, either byte order
    sensor_msgs/CompressedImage  JPEG and PNG, also grey, 16-bit and with alpha

Every message is checked as a whole before a pixel is touched: what is malformed raises `UserError`
with the reason, and no input gives a wrong picture. Colour conversion goes through cv_bridge where
it can be imported, else through the same OpenCV calls that cv_bridge makes. Unpacking rows is
always ours: cv_bridge's Python side shears pictures whose padded row is not a whole number of
pixels, and fails on big-endian data beside NumPy 2. For compressed pictures cv_bridge would only
call cv2.imdecode, so that is called at once.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.picture_files import picture_size

MAX_PIXELS = 50_000_000  # default of the limit below; 50 million pixels are 150 MB of RGB
_PROBE_SECONDS = 30.0
_PROBE = """
import numpy as np
from cv_bridge import CvBridge
bridge, picture = CvBridge(), np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
converted = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(picture, "bgr8"), "rgb8")
raise SystemExit(0 if (converted == picture[..., ::-1]).all() else 1)
"""


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
    message: Any, max_pixels: int = MAX_PIXELS, use_cv_bridge: bool | None = None
) -> np.ndarray:
    """The picture of a sensor_msgs Image or CompressedImage as uint8 [H, W, 3], RGB, contiguous.

    The array may share the message's memory (rgb8 without padding), so treat it as read-only.

    `max_pixels` bounds H * W and is checked before anything is decoded. `use_cv_bridge`: None takes
    it where it can be imported. Raises `UserError` whose sentence names what is wrong with the
    message.
    """
    if hasattr(message, "encoding"):
        return _raw_to_rgb(message, max_pixels, use_cv_bridge)
    return _compressed_to_rgb(message, max_pixels)


def _raw_to_rgb(message: Any, max_pixels: int, use_cv_bridge: bool | None) -> np.ndarray:
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        known = ", ".join(ENCODINGS)
        raise UserError(f"its encoding '{message.encoding[:40]}' is not one of {known}")
    pixels = _unpack(message, encoding, max_pixels)
    if encoding.code is None:
        return pixels
    convert = cv_bridge_converter() if use_cv_bridge in (None, True) else None
    if convert is not None:
        return convert(pixels, encoding.bridge_name)
    return _to_rgb8(pixels, encoding.code)


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
            f"its {len(data)} bytes of {message.format[:40] or 'data'} cannot be decoded"
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


@functools.lru_cache(maxsize=1)
def cv_bridge_converter() -> Callable[[np.ndarray, str], np.ndarray] | None:
    """(pixels, encoding) -> uint8 RGB by cv_bridge, or None where it is absent or cannot work.

    A cv_bridge that was compiled for another NumPy may abort the whole process, so another one
    tries first.
    """
    if importlib.util.find_spec("cv_bridge") is None or not _cv_bridge_works():
        return None
    from cv_bridge import CvBridge

    bridge = CvBridge()

    def convert(pixels: np.ndarray, encoding: str) -> np.ndarray:
        height, width = pixels.shape[:2]
        message = SimpleNamespace(
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=int(pixels.itemsize > 1 and sys.byteorder == "big"),
            step=pixels.strides[0],
            data=pixels.tobytes(),
        )
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))

    return convert


def _cv_bridge_works() -> bool:
    """Whether another process converts one picture through cv_bridge and gets what OpenCV gives."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
