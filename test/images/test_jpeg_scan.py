# SPDX-License-Identifier: Apache-2.0
"""What an encoder writes is whole, whatever its options; each finding has a file that gives it."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images import jpeg_scan
from svd_vlm_ros.images.decoding import DamagedError
from svd_vlm_ros.images.jpeg_scan import LIBRARY, REASONS, Finding, scan_jpeg
from svd_vlm_ros.images.messages import to_rgb

SAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
}


def pixels(width: int, height: int, seed: int, noise: float = 4.0) -> np.ndarray:
    """Colours that run into each other, with a sensor's noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, noise, smooth.shape), 0, 255).astype(np.uint8)


def encoded(image: np.ndarray, **options: int) -> bytes:
    flags = [f for k, v in options.items() for f in (getattr(cv2, f"IMWRITE_JPEG_{k}"), v)]
    return cv2.imencode(".jpg", image, flags)[1].tobytes()


def without_huffman_tables(data: bytes) -> bytes:
    """As USB cameras send their frames (MJPG)."""
    kept, at = data[:2], 2
    while data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kept += b"" if data[at + 1] == 0xC4 else data[at : at + size]
        at += size
    return kept + data[at:]


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    seed=st.integers(0, 99),
    noise=st.sampled_from([0.0, 4.0, 60.0]),
    grey=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "QUALITY": st.integers(1, 100),
            "PROGRESSIVE": st.integers(0, 1),
            "OPTIMIZE": st.integers(0, 1),
            "RST_INTERVAL": st.sampled_from([0, 0, 1, 5, 40]),
            "SAMPLING_FACTOR": st.sampled_from(list(SAMPLINGS.values())),
        }
    ),
)
@settings(max_examples=150, deadline=None)
def test_what_opencv_writes_is_whole(
    width: int, height: int, seed: int, noise: float, grey: bool, options: dict
) -> None:
    image = pixels(width, height, seed, noise)
    data = encoded(image[..., 0] if grey else image, **options)
    assert scan_jpeg(data) is Finding.WHOLE
    if not options["PROGRESSIVE"] and not options["OPTIMIZE"]:
        assert scan_jpeg(without_huffman_tables(data)) is Finding.WHOLE


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [1, 30, 75, 95, 100])
def test_what_pillow_writes_is_whole(quality: int, subsampling: int, progressive: bool) -> None:
    file = io.BytesIO()
    image = Image.fromarray(pixels(133, 77, quality, noise=12))
    image.save(file, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    assert scan_jpeg(file.getvalue()) is Finding.WHOLE
    file = io.BytesIO()
    image.convert("CMYK").save(file, "JPEG", quality=quality, progressive=progressive)
    assert scan_jpeg(file.getvalue()) is Finding.WHOLE


# A block of 8x8 grey pixels, its codes written by hand: tables of T.81, K.3.
def block(bits: str, end: bytes = b"\xff\xd9") -> bytes:
    data = encoded(np.full((8, 8), 128, np.uint8), QUALITY=100)
    bits += "1" * (-len(bits) % 8)
    scan = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    return data[: data.index(b"\xff\xda") + 10] + scan.replace(b"\xff", b"\xff\x00") + end


SAME, EOB, ZRL = "00", "1010", "11111111001"  # no DC difference; no more values; 16 zeros
BASELINE = encoded(pixels(160, 120, 1))
PROGRESSIVE = encoded(pixels(160, 120, 1), PROGRESSIVE=1)
RESTARTS = encoded(pixels(160, 120, 1), RST_INTERVAL=8)
SCANS = [found.start() for found in re.finditer(b"\xff\xda", PROGRESSIVE)]
CASES = {
    "a hand-made block": (block(SAME + EOB), Finding.WHOLE),
    "arithmetic coding": (BASELINE.replace(b"\xff\xc0", b"\xff\xc9", 1), Finding.UNKNOWN),
    "no JPEG": (b"\x89PNG", Finding.UNKNOWN),
    "a zero in a table": (
        BASELINE.replace(b"\xff\xdb\x00\x43\x00\x02", b"\xff\xdb\x00\x43\x00\x00", 1),
        Finding.HEADER,
    ),
    "a table that leaps": (
        BASELINE.replace(b"\xff\xdb\x00\x43\x00\x02", b"\xff\xdb\x00\x43\x00\x82", 1),
        Finding.HEADER,
    ),
    "a symbol of two codes": (
        BASELINE.replace(b"\x01\x02\x03\x04\x05\x06", b"\x01\x02\x03\x04\x05\x02", 1),
        Finding.HEADER,
    ),
    "no code": (block(SAME + "1" * 16), Finding.CODE),
    "a run": (block(SAME + 4 * ZRL + EOB), Finding.RUN),
    "brightness": (block("111111110" + "1" * 11 + EOB), Finding.RANGE),
    "no data": (block(""), Finding.SHORT),
    "no end": (block(SAME + EOB, b""), Finding.SHORT),
    "two blocks": (block(2 * (SAME + EOB)), Finding.LONG),
    "padding of both kinds": (block(SAME + EOB + "01"), Finding.LONG),
    "restart out of turn": (RESTARTS.replace(b"\xff\xd1", b"\xff\xd2", 1), Finding.RESTART),
    "the last scan": (PROGRESSIVE[: SCANS[-1]] + b"\xff\xd9", Finding.INCOMPLETE),
    "a scan twice": (PROGRESSIVE[: SCANS[1]] + PROGRESSIVE[SCANS[0] :], Finding.HEADER),
}


@pytest.mark.parametrize("kind", list(CASES))
def test_each_finding(kind: str) -> None:
    data, finding = CASES[kind]
    assert scan_jpeg(data) is finding


def test_every_finding_has_a_case_and_a_sentence() -> None:
    assert {finding for _, finding in CASES.values()} == set(Finding)
    assert set(REASONS) == set(Finding) - {Finding.WHOLE}


def test_the_reason_is_named() -> None:
    message = SimpleNamespace(format="jpeg", data=CASES["two blocks"][0])
    with pytest.raises(DamagedError, match="data are left over") as caught:
        to_rgb(message)
    assert caught.value.reason == REASONS[Finding.LONG]
    assert to_rgb(message, allow_damaged=True).shape == (8, 8, 3)


def test_random_damage_is_found_or_not_but_never_crashes() -> None:
    rng = np.random.default_rng(0)
    found = set()
    for number in range(3000):
        data = bytearray((BASELINE, PROGRESSIVE, RESTARTS)[number % 3])
        for _ in range(rng.integers(1, 5)):
            at, size = int(rng.integers(len(data))), int(rng.integers(1, 40))
            kind = rng.integers(4)
            if kind == 0:
                data[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                data[at : at + size] = bytes(rng.integers(0, 256, size, np.uint8))
            elif kind == 2:
                del data[at : at + size]
            else:
                data[at : at + size] = b"\xff" * size
        found.add(scan_jpeg(bytes(data)))
    assert found >= set(Finding) - {Finding.INCOMPLETE}


def test_without_the_library_no_jpeg_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_scan, "LIBRARY", LIBRARY.with_name("missing.so"))
    jpeg_scan._library.cache_clear()
    with pytest.raises(UserError, match="cannot be checked for damage"):
        to_rgb(SimpleNamespace(format="jpeg", data=BASELINE))
    jpeg_scan._library.cache_clear()
