# SPDX-License-Identifier: Apache-2.0
"""Malformed images by the thousand: the fields of Image and CompressedImage messages.

Each is wrong in a known way (`why`), and none may become an image. The same seed gives the same
messages.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from types import SimpleNamespace

import cv2
import numpy as np

HEIGHT, WIDTH = 12, 16
LARGEST = 2**32 - 1
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "mono8": 1, "mono16": 2, "bayer_rggb8": 1, "yuyv": 2}
UNKNOWN = (
    "",
    "rgb9",
    "jpeg",
    "32FC1",
    "16UC1",
    "64FC3",
    "nv42",
    "rgb8\x00",
    "\x1b[31m",
    "é",
)


def raw_messages(number: int, seed: int) -> Iterator[tuple[str, SimpleNamespace]]:
    """Image messages with what is wrong with each."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        encoding = str(rng.choice(list(CHANNELS)))
        row = WIDTH * CHANNELS[encoding]
        step = row + int(rng.integers(0, 5))
        fields = {
            "height": HEIGHT,
            "width": WIDTH,
            "encoding": encoding,
            "is_bigendian": int(rng.integers(0, 2)),
            "step": step,
            "data": rng.integers(0, 256, HEIGHT * step, np.uint8).tobytes(),
        }
        why = str(
            rng.choice(["encoding", "step", "short", "long", "zero", "huge", "nan", "height"])
        )
        fields.update(_wrong(why, fields, row, rng))
        yield why, SimpleNamespace(**fields)


def _wrong(why: str, fields: dict, row: int, rng: np.random.Generator) -> dict:
    step, data = fields["step"], fields["data"]
    if why == "encoding":
        return {"encoding": UNKNOWN[rng.integers(len(UNKNOWN))]}  # choice() drops the zero byte
    if why == "step":
        return {"step": int(rng.choice([0, 1, row - 1, step + 8, LARGEST]))}
    if why == "short":
        return {"data": data[: int(rng.integers(0, HEIGHT * step - (step - row)))]}
    if why == "long":
        return {"data": data + bytes(int(rng.integers(1, 3 * row)))}
    if why == "zero":
        return {str(rng.choice(["width", "height", "step"])): 0}
    if why == "huge":
        large = int(rng.choice([10**5, 2**31, LARGEST]))
        return {"width": large, "height": int(rng.choice([HEIGHT, large]))}
    if why == "nan":
        distances = np.full(HEIGHT * WIDTH, np.nan, np.float32)
        return {"encoding": "32FC1", "step": 4 * WIDTH, "data": distances.tobytes()}
    return {"height": HEIGHT + int(rng.choice([-1, 1, 1000]))}


def compressed_messages(number: int, seed: int) -> Iterator[tuple[str, SimpleNamespace]]:
    """CompressedImage messages with what is wrong with each."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    files = {
        "jpeg": _file(".jpg", pixels),
        "progressive": _file(".jpg", pixels, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "png": _file(".png", pixels),
    }
    for _ in range(number):
        kind = str(rng.choice(list(files)))
        data = files[kind]
        why = str(rng.choice(["cut", "bomb", "garbage", "empty", "crc", "scans", "other"]))
        if why == "cut":
            data = data[: int(rng.integers(1, len(data) - 1))]
        elif why == "bomb":
            data = png_bomb() if kind == "png" else jpeg_bomb(data)
        elif why == "garbage":
            data = rng.integers(0, 256, int(rng.integers(1, 400)), np.uint8).tobytes()
        elif why == "empty":
            data = b""
        elif why == "crc":
            data = _flip(files["png"], int(rng.integers(8, len(files["png"]) - 12)))
        elif why == "scans":
            data = jpeg_of_scans(files["progressive"], int(rng.integers(200, 400)))
        else:
            data = _file(str(rng.choice([".bmp", ".tiff"])), pixels)
        label = str(
            rng.choice(["jpeg", "png", "", "rgb8; jpeg compressed bgr8", "\x1b[2J", "é" * 99])
        )
        yield why, SimpleNamespace(format=label, data=data)


def png_bomb(side: int = 60_000) -> bytes:
    """A PNG of a few bytes that claims gigabytes, with right checksums."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg_bomb(jpeg: bytes, side: int = 65_500) -> bytes:
    """The same JPEG with another size in its frame header."""
    at = next(i for i in range(len(jpeg)) if jpeg[i] == 0xFF and jpeg[i + 1] in (0xC0, 0xC2))
    return jpeg[: at + 5] + struct.pack(">HH", side, side) + jpeg[at + 9 :]


def jpeg_of_scans(progressive: bytes, scans: int) -> bytes:
    """The first scan again and again."""
    first = progressive.index(b"\xff\xda")
    return progressive[:-2] + scans * progressive[first : first + 12] + progressive[-2:]


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def _file(ending: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(ending, pixels, options)[1].tobytes()
