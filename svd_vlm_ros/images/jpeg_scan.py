# SPDX-License-Identifier: Apache-2.0
"""Whether a JPEG's data are such as an encoder writes (`src/jpeg_scan.cpp`), over ctypes.

A decoder accepts what this finds: libjpeg cuts runs that leave their block, adds up brightness out
of any range and drops bits that are over, all without a warning. About a third of the time of
decoding; the GIL is released.
"""

from __future__ import annotations

import ctypes
import functools
from enum import IntEnum
from pathlib import Path

import numpy as np

from svd_vlm_ros.errors import UserError

LIBRARY = Path(__file__).with_name("libsvd_vlm_jpeg.so")


class Finding(IntEnum):
    """The first thing that is wrong; numbered as in src/jpeg_blocks.hpp."""

    WHOLE = 0
    UNKNOWN = 1
    HEADER = 2
    CODE = 3
    RUN = 4
    RANGE = 5
    SHORT = 6
    LONG = 7
    RESTART = 8
    INCOMPLETE = 9


REASONS = {
    Finding.UNKNOWN: "its kind is none that cameras send: arithmetic, lossless or of 12 bits",
    Finding.HEADER: "parts of its header contradict each other",
    Finding.CODE: "some of its bits are no code of its tables",
    Finding.RUN: "some of its codes leave their block",
    Finding.RANGE: "some of its values are larger than an image can have",
    Finding.SHORT: "its data end before its last block",
    Finding.LONG: "data are left over behind its last block",
    Finding.RESTART: "a restart marker is missing or out of turn",
    Finding.INCOMPLETE: "some of its coefficients never came",
}


def scan_jpeg(data: bytes | memoryview) -> Finding:
    """Read the file through, up to its end marker, without computing a pixel.

    Raises `UserError` if the library is missing: a JPEG that was not checked is not shown.
    """
    array = np.frombuffer(data, np.uint8)
    return Finding(_library().svd_vlm_scan_jpeg(array.ctypes.data, array.size))


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise UserError(
            f"JPEGs cannot be checked for damage ({error}): build and install the package again"
        ) from error
    library.svd_vlm_scan_jpeg.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    return library
