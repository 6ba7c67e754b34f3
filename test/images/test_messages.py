# SPDX-License-Identifier: Apache-2.0
"""Conversions against plain NumPy readings of each encoding, and malformed messages."""

from __future__ import annotations

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images import messages
from svd_vlm_ros.images.messages import to_rgb

HEIGHT, WIDTH = 6, 10
RNG = np.random.default_rng(7)
PATTERNS = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


def raw(pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> SimpleNamespace:
    """A message that holds these rows, each with `padding` bytes of rubbish behind it."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    rows = np.hstack([rows, np.full((height, padding), 0xA5, np.uint8)])
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )


def compressed(data: bytes, label: str = "jpeg") -> SimpleNamespace:
    return SimpleNamespace(format=label, data=array.array("B", data))


def encode(extension: str, pixels: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(extension, pixels, list(options))
    assert done
    return data.tobytes()


def noise(channels: int, dtype: type = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max + 1
    return RNG.integers(0, top, (HEIGHT, WIDTH, channels), dtype)


def to_8_bit(values: np.ndarray) -> np.ndarray:
    return np.rint(values / 257.0).astype(np.uint8)


@pytest.mark.parametrize("padding", [0, 1, 2, 6])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2]), ("bgra8", [2, 1, 0])],
)
def test_colours(encoding: str, order: list[int], padding: int) -> None:
    pixels = noise(4 if "a" in encoding else 3)
    got = to_rgb(raw(pixels, encoding, padding))
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, pixels[..., order])


@pytest.mark.parametrize("padding", [0, 3])
def test_mono8(padding: int) -> None:
    pixels = noise(1)
    np.testing.assert_array_equal(to_rgb(raw(pixels, "mono8", padding)), np.repeat(pixels, 3, 2))


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("big", [False, True])
def test_mono16(big: bool, padding: int) -> None:
    values = noise(1, np.uint16)
    values[0, :4, 0] = 0, 1, 65535, 32768
    message = raw(values.astype(">u2" if big else "<u2"), "mono16", padding, big)
    np.testing.assert_array_equal(to_rgb(message), np.repeat(to_8_bit(values), 3, 2))


@pytest.mark.parametrize("name", PATTERNS)
def test_bayer_keeps_what_each_site_measured(name: str) -> None:
    mosaic = noise(1)
    got = to_rgb(raw(mosaic, f"bayer_{name}8", padding=2))
    for row in range(1, HEIGHT - 1):
        for column in range(1, WIDTH - 1):
            colour = "RGB".index(PATTERNS[name][2 * (row % 2) + column % 2])
            assert got[row, column, colour] == mosaic[row, column, 0]


@pytest.mark.parametrize("name", PATTERNS)
def test_bayer_of_one_colour(name: str) -> None:
    red_green_blue = (200, 120, 40)
    sites = np.array(["RGB".index(letter) for letter in PATTERNS[name]]).reshape(2, 2)
    mosaic = np.array(red_green_blue, np.uint8)[np.tile(sites, (HEIGHT // 2, WIDTH // 2))]
    got = to_rgb(raw(mosaic[..., None], f"bayer_{name}8"))
    np.testing.assert_array_equal(got, np.broadcast_to(red_green_blue, got.shape))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv422(encoding: str, padding: int) -> None:
    luma = RNG.integers(16, 236, (HEIGHT, WIDTH)).astype(np.uint8)
    blue, red = RNG.integers(16, 241, (2, HEIGHT, WIDTH // 2)).astype(np.uint8)
    chroma = np.stack([blue, red], axis=-1).reshape(HEIGHT, WIDTH)  # U and V by turns
    pair = (chroma, luma) if encoding in ("yuv422", "uyvy") else (luma, chroma)
    y = 1.164 * (luma.astype(float) - 16)
    u, v = (np.repeat(plane, 2, axis=1).astype(float) - 128 for plane in (blue, red))
    wanted = np.stack([y + 1.596 * v, y - 0.813 * v - 0.391 * u, y + 2.018 * u], axis=-1)
    got = to_rgb(raw(np.stack(pair, axis=-1), encoding, padding))
    assert np.abs(got - wanted.clip(0, 255)).max() <= 1.5


@pytest.mark.parametrize(
    ("encoding", "padding"), [("nv12", 0), ("nv12", 4), ("nv21", 0), ("nv21", 4), ("nv24", 0)]
)
def test_semi_planar(encoding: str, padding: int) -> None:
    """All luma, then U and V by turns (nv21: V and U), for each pixel or for each four."""
    luma = RNG.integers(16, 236, (HEIGHT, WIDTH)).astype(np.uint8)
    every = 1 if encoding == "nv24" else 2
    u, v = RNG.integers(16, 241, (2, HEIGHT // every, WIDTH // every)).astype(np.uint8)
    pair = (v, u) if encoding == "nv21" else (u, v)
    chroma = np.stack(pair, axis=-1).reshape(-1, WIDTH)  # nv24: two rows of bytes a pixel row
    rows = np.vstack([luma, chroma])
    message = raw(rows, encoding, padding)
    message.height = HEIGHT
    y = 1.164 * (luma.astype(float) - 16)
    u, v = (p.repeat(every, 0).repeat(every, 1).astype(float) - 128 for p in (u, v))
    wanted = np.stack([y + 1.596 * v, y - 0.813 * v - 0.391 * u, y + 2.018 * u], axis=-1)
    assert np.abs(to_rgb(message) - wanted.clip(0, 255)).max() <= 1.5


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("encoding", "order"), [("rgb16", [0, 1, 2]), ("bgr16", [2, 1, 0]), ("bgra16", [2, 1, 0])]
)
def test_colours_of_16_bits(encoding: str, order: list[int], big: bool) -> None:
    values = noise(4 if "a" in encoding else 3, np.uint16)
    values[0, 0] = 65535
    message = raw(values.astype(">u2" if big else "<u2"), encoding, 2, big)
    np.testing.assert_array_equal(to_rgb(message), to_8_bit(values)[..., order])


@pytest.mark.parametrize("name", PATTERNS)
def test_bayer_of_16_bits(name: str) -> None:
    mosaic = noise(1)
    mosaic[0, 0] = 255
    wide = raw(mosaic.astype(np.uint16) * 257, f"bayer_{name}16")
    np.testing.assert_array_equal(to_rgb(wide), to_rgb(raw(mosaic, f"bayer_{name}8")))


@pytest.mark.parametrize("white", [4095, 16383, 65535])
def test_the_range_of_16_bit_values(white: int) -> None:
    """Sensors of 12 and 14 bits leave the upper bits empty; white is white all the same."""
    values = np.array([[white, white // 2], [0, white // 4]], np.uint16)
    got = to_rgb(raw(values[..., None], "mono16"))[..., 0]
    np.testing.assert_allclose(got.astype(int), [[255, 127], [0, 64]], atol=1)


@pytest.mark.parametrize(
    ("name", "same"),
    [("8UC1", "mono8"), ("8UC3", "bgr8"), ("8UC4", "bgra8"), ("RGB8", "rgb8"), ("YUYV", "yuyv")],
)
def test_other_names_of_encodings(name: str, same: str) -> None:
    channels = {"mono8": 1, "bgr8": 3, "rgb8": 3, "bgra8": 4, "yuyv": 2}[same]
    pixels = noise(channels)
    np.testing.assert_array_equal(to_rgb(raw(pixels, name)), to_rgb(raw(pixels, same)))


def test_odd_sizes_of_semi_planar_images_are_refused() -> None:
    message = raw(noise(1), "nv12")
    message.height = 5
    with pytest.raises(UserError, match="its height 5 is odd"):
        to_rgb(message)


def test_last_row_may_lack_its_padding() -> None:
    pixels = noise(3)
    message = raw(pixels, "rgb8", padding=5)
    message.data = message.data[:-5]
    np.testing.assert_array_equal(to_rgb(message), pixels)


def test_rgb8_is_not_copied() -> None:
    message = raw(noise(3), "rgb8")
    assert np.shares_memory(to_rgb(message), np.frombuffer(message.data, np.uint8))


def test_jpeg() -> None:
    smooth = cv2.resize(noise(3)[:2, :2], (64, 48), interpolation=cv2.INTER_LINEAR)
    got = to_rgb(compressed(encode(".jpg", smooth[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 100)))
    assert np.abs(got.astype(int) - smooth).max() <= 12
    grey = to_rgb(compressed(encode(".jpg", smooth[..., 0], cv2.IMWRITE_JPEG_QUALITY, 100)))
    assert np.abs(grey.astype(int) - smooth[..., :1]).max() <= 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png(channels: int, dtype: type) -> None:
    pixels = noise(channels, dtype)
    label = "mono16; png compressed " if dtype is np.uint16 else "png"
    got = to_rgb(compressed(encode(".png", pixels), label))
    wanted = np.repeat(pixels, 3, 2) if channels == 1 else pixels[..., 2::-1]
    np.testing.assert_array_equal(got, wanted if dtype is np.uint8 else to_8_bit(wanted))


def test_compressed_mosaic() -> None:
    mosaic = noise(1)
    got = to_rgb(compressed(encode(".png", mosaic), "bayer_rggb8; png compressed "))
    np.testing.assert_array_equal(got, to_rgb(raw(mosaic, "bayer_rggb8")))


def test_bytes_behind_the_jpeg_do_not_matter() -> None:
    data = encode(".jpg", noise(3))
    np.testing.assert_array_equal(to_rgb(compressed(data + b"\0" * 50)), to_rgb(compressed(data)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoding": "rgb9"}, "rgb9"),
        ({"encoding": ""}, "encoding"),
        ({"encoding": "16UC1"}, "16UC1"),
        ({"step": 29}, "step is 29"),
        ({"step": 0}, "step is 0"),
        ({"step": 31}, "step 31"),
        ({"step": 2**32 - 1}, "4294967295"),
        ({"width": 0}, "0x6"),
        ({"height": 0}, "10x0"),
        ({"height": 7}, "height 7"),
        ({"height": 5}, "height 5"),
        ({"width": 2**32 - 1, "height": 2**32 - 1}, "limit"),
        ({"data": array.array("B")}, "0 bytes"),
        ({"data": array.array("B", bytes(179))}, "179 bytes"),
        ({"data": array.array("B", bytes(181))}, "181 bytes"),
        ({"encoding": "yuyv", "width": 9, "step": 18, "data": array.array("B", bytes(108))}, "odd"),
        (
            {"encoding": "bayer_rggb8", "width": 1, "step": 1, "data": array.array("B", bytes(6))},
            "1x6",
        ),
    ],
)
def test_malformed_image_is_named(change: dict, named: str) -> None:
    message = raw(noise(3), "rgb8")
    vars(message).update(change)
    with pytest.raises(UserError, match=named):
        to_rgb(message)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "empty"),
        (b"garbage", "neither JPEG, PNG nor WebP"),
        (b"\xff\xd8", "truncated JPEG"),
        (b"\xff\xd8\xff\xd9", "truncated JPEG"),
        (b"\xff\xd8abcdef", "broken JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "broken PNG"),
    ],
)
def test_malformed_file_is_named(data: bytes, named: str) -> None:
    with pytest.raises(UserError, match=named):
        to_rgb(compressed(data))


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_every_truncation_is_noticed(extension: str) -> None:
    data = encode(extension, noise(3))
    for length in range(len(data)):
        with pytest.raises(UserError):
            to_rgb(compressed(data[:length]))


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_size_is_checked_before_decoding(extension: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(extension, np.zeros((200, 300, 3), np.uint8))
    monkeypatch.setattr(messages, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="300x200 is over the limit of 59999 pixels"):
        to_rgb(compressed(data), max_pixels=59_999)
