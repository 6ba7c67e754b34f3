# SPDX-License-Identifier: Apache-2.0
"""A shift of all that follows is found where it begins; whole images of many kinds have none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from svd_vlm_ros.images.decoding import DamagedError, decode
from svd_vlm_ros.images.jpeg_scan import Finding, scan_jpeg
from svd_vlm_ros.images.seam import find_seam
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.render import render

MCU = 16
Y, CB, CR = (1, 1, 1), (0, -0.344, 1.772), (1.402, -0.714, 0)


def coded(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [1, quality])[1], cv2.IMREAD_UNCHANGED)


def scout(seed: int, width: int = 336, height: int = 336) -> np.ndarray:
    return cv2.resize(render(drive(8.0, seed)), (width, height))


def shifted(image: np.ndarray, row: int, column: int, step: np.ndarray) -> np.ndarray:
    """All MCUs from this one on, in the order of reading."""
    out = image.astype(np.float64)
    top, left = MCU * row, MCU * column
    out[top : top + MCU, left:] += step
    out[top + MCU :] += step
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("colour", [Y, CB, CR])
@pytest.mark.parametrize("level", [-60, -30, 20, 45])
def test_a_shift_is_found_where_it_begins(level: int, colour: tuple[float, ...]) -> None:
    rng = np.random.default_rng(abs(level))
    found = 0
    for seed in range(10):
        image = coded(scout(seed, 640, 480), 85)
        row, column = int(rng.integers(3, 27)), int(rng.integers(3, 37))
        seam = find_seam(shifted(image, row, column, np.multiply(colour, level)), (MCU, MCU))
        found += seam is not None
        if seam is not None:
            assert seam.row == row
            assert abs(seam.column - column) <= 10, "a quarter of a row may be garbage"
    assert found >= 5, "the rest is black, white or hidden among the edges of the image itself"


def drawings() -> dict[str, np.ndarray]:
    y, x = np.mgrid[:480, :640]
    rng = np.random.default_rng(0)
    flat = np.full((480, 640, 3), 90, np.uint8)
    bars = scout(3, 640, 480)
    bars[:64] = bars[-64:] = 16
    timestamp = scout(4, 640, 480)
    timestamp[:16, :240] = 0
    cv2.putText(timestamp, "2026-11-27 12:00:00", (2, 13), 0, 0.5, (255, 255, 255), 1)
    rectangles = flat.copy()
    for at in range(0, 480, 48):
        rectangles[at : at + 16, at : at + 160] = rng.integers(0, 256, 3)
    horizon = np.where((y < 240)[..., None], (180, 200, 240), (90, 80, 60))
    return {
        "flat": flat,
        "bars": bars,
        "timestamp": timestamp,
        "checks of 8": np.where((x // 8 + y // 8) % 2, 40, 210).astype(np.uint8),
        "checks of 16": np.where((x // 16 + y // 16) % 2, 40, 210).astype(np.uint8),
        "stairs": np.where(y > 160 + x // 128 * 16, 200, 90).astype(np.uint8),
        "rectangles": rectangles,
        "gradient": (x * 255 // 640).astype(np.uint8),
        "horizon": np.clip(horizon + rng.normal(0, 4, flat.shape), 0, 255).astype(np.uint8),
        "slope": np.where((y < 240 + x // 40)[..., None], flat, 170).astype(np.uint8),
        "noise": rng.integers(0, 256, flat.shape, np.uint8),
    }


@pytest.mark.parametrize("quality", [30, 60, 85, 100])
@pytest.mark.parametrize("kind", list(drawings()))
def test_whole_images_have_no_seam(kind: str, quality: int) -> None:
    image = coded(drawings()[kind], quality)
    for mcu in ((16, 16), (8, 8), (8, 16)):
        assert find_seam(image, mcu) is None


@pytest.mark.parametrize(("width", "height"), [(336, 336), (640, 480), (1280, 720), (801, 599)])
def test_scouts_world_has_no_seam(width: int, height: int) -> None:
    for seed in range(20):
        image = coded(scout(seed, width, height), 30 + 3 * seed)
        assert find_seam(image, (16, 16)) is None


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (16, 400), (400, 16), (20, 40), (33, 130)])
def test_small_images(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert find_seam(image, (16, 16)) is None
    assert find_seam(image[..., 0], (8, 8)) is None


def test_a_changed_bit_that_breaks_no_code_is_found() -> None:
    """Bits of a real file, until one shifts brightness or a colour of what follows."""
    image = scout(1, 640, 480)
    data = cv2.imencode(".jpg", image[..., ::-1], [1, 85])[1].tobytes()
    whole = decode(memoryview(data))
    assert whole is not None
    rng = np.random.default_rng(0)
    found = missed = 0
    for at in rng.integers(len(data) // 5, 4 * len(data) // 5, 2500):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        if scan_jpeg(bytes(changed)) is not Finding.WHOLE:
            continue
        try:
            pixels = decode(memoryview(changed))
        except DamagedError:
            found += 1
            continue
        assert pixels is not None
        rest = np.abs(pixels[-160:].astype(int) - whole[-160:]).mean()
        missed += rest > 15
    assert found > 10
    assert missed < found
