# SPDX-License-Identifier: Apache-2.0
"""The encodings of sensor_msgs/Image that are read, and what a CompressedImage's format says.

    find_encoding("RGB8")                        the encoding, by its name in either case
    source_encoding("bayer_rggb8; jpeg ...")     what a compressed image was made of

Both refuse what holds distances, such as 16UC1, with the same sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2

from svd_vlm_ros.errors import UserError

_SHOWN = 40  # characters of a message's text that a sentence repeats
_NUMBERS = re.compile(r"(8|16|32|64)[USF]C\d{1,3}", re.IGNORECASE)  # OpenCV's types, as 32FC1


@dataclass(frozen=True)
class Encoding:
    """How a pixel lies in the data, and OpenCV's conversion of its 8-bit form to RGB.

    `code` None: it is RGB. `bridge_name`: what cv_bridge calls the 8-bit form, older ones too; "":
    it cannot convert it. `chroma`: bytes of colour behind the rows, for each byte of the rows.
    """

    channels: int
    itemsize: int
    code: int | None
    bridge_name: str
    columns_even: bool = False  # two pixels share their colour
    rows_even: bool = False
    mosaic: bool = False
    chroma: float = 0.0


def _bayer(name: str, code: int, itemsize: int = 1) -> Encoding:
    return Encoding(1, itemsize, code, name, mosaic=True)


_UYVY = Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, "yuv422", columns_even=True)
_YUYV = Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, "yuv422_yuy2", columns_even=True)
# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first two
# rows' first two.
_PATTERNS = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}

ENCODINGS: dict[str, Encoding] = {
    "rgb8": Encoding(3, 1, None, "rgb8"),
    "bgr8": Encoding(3, 1, cv2.COLOR_BGR2RGB, "bgr8"),
    "rgba8": Encoding(4, 1, cv2.COLOR_RGBA2RGB, "rgba8"),
    "bgra8": Encoding(4, 1, cv2.COLOR_BGRA2RGB, "bgra8"),
    "mono8": Encoding(1, 1, cv2.COLOR_GRAY2RGB, "mono8"),
    "rgb16": Encoding(3, 2, None, "rgb8"),
    "bgr16": Encoding(3, 2, cv2.COLOR_BGR2RGB, "bgr8"),
    "rgba16": Encoding(4, 2, cv2.COLOR_RGBA2RGB, "rgba8"),
    "bgra16": Encoding(4, 2, cv2.COLOR_BGRA2RGB, "bgra8"),
    "mono16": Encoding(1, 2, cv2.COLOR_GRAY2RGB, "mono8"),
    **{f"{name}8": _bayer(f"{name}8", code) for name, code in _PATTERNS.items()},
    **{f"{name}16": _bayer(f"{name}8", code, 2) for name, code in _PATTERNS.items()},
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": Encoding(1, 1, cv2.COLOR_YUV2RGB_NV12, "", True, True, chroma=0.5),
    "nv21": Encoding(1, 1, cv2.COLOR_YUV2RGB_NV21, "", True, True, chroma=0.5),
    "nv24": Encoding(1, 1, None, "", chroma=2.0),
    # As cv_bridge reads them, and as some drivers send colours.
    "8UC1": Encoding(1, 1, cv2.COLOR_GRAY2RGB, "mono8"),
    "8UC3": Encoding(3, 1, cv2.COLOR_BGR2RGB, "bgr8"),
    "8UC4": Encoding(4, 1, cv2.COLOR_BGRA2RGB, "bgra8"),
}
_KNOWN = (
    "rgb8, bgr8, rgba8, bgra8, mono8, bayer_*8, the same with 16, uyvy, yuv422, yuyv, yuv422_yuy2, "
    "nv12, nv21, nv24, 8UC1, 8UC3, 8UC4"
)
_BY_NAME = {name.lower(): encoding for name, encoding in ENCODINGS.items()}


def find_encoding(name: str) -> Encoding:
    """The encoding of this name. Raises `UserError` if it is not read."""
    found = _BY_NAME.get(name.lower())
    if found is None:
        _refuse_numbers(name, "encoding")
        raise UserError(f"its encoding '{shown(name)}' is not one of {_KNOWN}")
    return found


def source_encoding(label: str) -> Encoding | None:
    """What a CompressedImage was made of, if its format says so; None: it does not.

    image_transport writes "rgb8; jpeg compressed bgr8", other drivers "jpeg" alone. Raises
    `UserError` if the format names distances.
    """
    name = re.split(r"[;\s]", label.strip(), maxsplit=1)[0]
    if "compresseddepth" in label.lower():
        raise UserError(_distances("format", label))
    found = _BY_NAME.get(name.lower())
    if found is None:
        _refuse_numbers(name, "format", label)
    return found


def shown(text: str) -> str:
    """A text out of a message as a log can bear it: short, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])


def _refuse_numbers(name: str, field: str, text: str | None = None) -> None:
    if _NUMBERS.fullmatch(name):
        raise UserError(_distances(field, text or name))


def _distances(field: str, text: str) -> str:
    return (
        f"its {field} '{shown(text.strip())}' holds plain numbers such as distances (NaN among "
        "them), not colours: choose the topic of a colour image"
    )
