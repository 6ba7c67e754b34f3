# SPDX-License-Identifier: Apache-2.0
"""The files within CompressedImage messages, decoded to RGB: JPEG, PNG and WebP.

A decoder fills what is missing of a damaged JPEG by guessing and goes on, with a warning at most.
Here such an image is refused: `jpeg_scan` reads the data as strictly as an encoder writes them,
simplejpeg (libjpeg-turbo) turns its warnings into errors, which OpenCV prints to stderr and Pillow
drops, and `seam` finds a shift of all that follows. A PNG has checksums, which `files` compared.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images.files import JPEG_START
from svd_vlm_ros.images.jpeg_scan import REASONS, Finding, scan_jpeg
from svd_vlm_ros.images.seam import find_seam

# Height and width in pixels of an MCU, by libjpeg-turbo's name of how colours are sampled.
_MCU = {
    "Gray": (8, 8),
    "444": (8, 8),
    "422": (8, 16),
    "420": (16, 16),
    "440": (16, 8),
    "411": (8, 32),
    "441": (32, 8),
}


class DamagedError(UserError):
    """A part of the image is missing or changed; `reason` says what was found."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"it is a damaged JPEG ({reason}), of which a decoder would invent a part")
        self.reason = reason


def decode(data: memoryview, allow_damaged: bool = False) -> np.ndarray | None:
    """The pixels of a file, None if it cannot be decoded.

    Returns:
        RGB uint8 or uint16 [H, W, 3], with alpha [H, W, 4], or grey [H, W]; orientation as stored.

    Raises:
        DamagedError: it is a damaged JPEG, unless `allow_damaged`.
    """
    if bytes(data[: len(JPEG_START)]) == JPEG_START:
        return _decode_jpeg(data, strict=not allow_damaged)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    code = cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(pixels, code)


def check_jpeg(data: bytes) -> None:
    """Raise `DamagedError` on a damaged JPEG, which is decoded for it."""
    if data.startswith(JPEG_START):
        _decode_jpeg(memoryview(data), strict=True)


def _decode_jpeg(data: memoryview, strict: bool) -> np.ndarray | None:
    finding = scan_jpeg(data) if strict else Finding.WHOLE
    if finding is not Finding.WHOLE:
        raise DamagedError(REASONS[finding])
    try:
        _, _, colours, sampling = simplejpeg.decode_jpeg_header(data)
        grey = colours == "Gray"
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", strict=strict)
    except ValueError as error:
        if not strict:
            return None
        raise DamagedError(" ".join(str(error).split())[:80]) from error
    mcu = _MCU.get("Gray" if grey else sampling)
    if strict and mcu is not None:
        _check_seam(pixels, mcu)
    return pixels[..., 0] if grey else pixels


def _check_seam(pixels: np.ndarray, mcu: tuple[int, int]) -> None:
    seam = find_seam(pixels, mcu)
    if seam is not None:
        raise DamagedError(
            f"all behind x {seam.column * mcu[1]}, y {seam.row * mcu[0]} is {abs(seam.step):.0f} "
            "levels off in brightness or a colour"
        )
