# SPDX-License-Identifier: Apache-2.0
"""Size and wholeness of JPEG, PNG and WebP files, read from their structure before decoding.

OpenCV decodes a truncated JPEG into an image whose lower part is grey, and a small file may claim
an image of gigabytes, or go over the same image thousands of times. All of it is found here, at
the cost of a walk over the file's segments.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from svd_vlm_ros.errors import UserError

JPEG_START = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n"
WEBP_HEAD = 30  # bytes that hold the size in each of its three forms
# A progressive JPEG shows the image in some ten scans. A decoder works through the whole image
# for each, so that a thousand scans of a few bytes each keep it busy for minutes.
MAX_SCANS = 100
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that carry the size
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_PNG_LEAST_HEADER = 13


class TruncatedError(UserError):
    """The end of a file is missing."""


class UnknownFormatError(UserError):
    """The data are neither JPEG, PNG nor WebP."""


def image_size(data: bytes | memoryview) -> tuple[int, int]:
    """Width and height in pixels of a whole JPEG, PNG or WebP file.

    Raises:
        TruncatedError: its end is missing.
        UnknownFormatError: it is of another kind.
        UserError: it is broken in another way, or empty.
    """
    data = memoryview(data)
    head = bytes(data[: len(PNG_START)])
    if head.startswith(JPEG_START):
        return _jpeg_size(data)
    if head == PNG_START:
        return _png_size(data)
    if head[:4] == b"RIFF" and bytes(data[8:12]) == b"WEBP":
        return _webp_size(data)
    if not len(data):
        raise UserError("its data is empty")
    raise UnknownFormatError("its data is neither JPEG, PNG nor WebP")


def _jpeg_size(data: memoryview) -> tuple[int, int]:
    """Walk the segments up to the first scan, then look for the end marker behind it.

    The walk matters: a thumbnail in a segment has an end marker of its own.
    """
    size: tuple[int, int] | None = None
    at = len(JPEG_START)
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise UserError(f"it is a broken JPEG: no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _JPEG_BARE:
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _JPEG_FRAMES:
            if length < 8 or at + 9 > len(data):
                raise UserError("it is a broken JPEG: its frame header is cut off")
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = (width, height)
        if marker == _JPEG_SCAN:
            if size is None:
                raise UserError("it is a broken JPEG: image data comes before the size")
            _check_scans(bytes(data[at:]), len(data))
            return size
        at += 2 + length
    raise TruncatedError(f"it is a truncated JPEG: its header is cut off after {len(data)} bytes")


def _check_scans(rest: bytes, length: int) -> None:
    """Within image data 0xff is always followed by 0x00 or a restart marker."""
    if rest.rfind(_JPEG_END) < 0:
        raise TruncatedError(f"it is a truncated JPEG: no end marker in its {length} bytes")
    # As words of 16 bits at even and odd places: ten times as fast as bytes.count().
    words = (np.frombuffer(rest, "<u2", (len(rest) - at) // 2, at) for at in (0, 1))
    scans = sum(int(np.count_nonzero(each == (_JPEG_SCAN << 8 | 0xFF))) for each in words)
    if scans > MAX_SCANS:
        raise UserError(f"it is a JPEG of {scans} scans, of which {MAX_SCANS} is the most")


def _png_size(data: memoryview) -> tuple[int, int]:
    """Walk all chunks and check their checksums, up to the end chunk."""
    size: tuple[int, int] | None = None
    at = len(PNG_START)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(data[at + 4 : end]) != checksum:
            raise UserError(f"it is a broken PNG: wrong checksum in its chunk at byte {at}")
        if size is None:
            if kind != b"IHDR" or length < _PNG_LEAST_HEADER:
                raise UserError("it is a broken PNG: it does not begin with a header")
            size = struct.unpack_from(">II", data, at + 8)
        if kind == b"IEND":
            return size
        at = end + 4
    raise TruncatedError(f"it is a truncated PNG: no end chunk in its {len(data)} bytes")


def _webp_size(data: memoryview) -> tuple[int, int]:
    """The size in the first chunk: lossy (VP8), lossless (VP8L) or extended (VP8X)."""
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) < max(length + 8, WEBP_HEAD):
        raise TruncatedError(f"it is a truncated WebP: {len(data)} of its {length + 8} bytes")
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise UserError("it is a broken WebP: its first chunk is none of an image")
    return width, height
