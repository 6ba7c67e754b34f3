# SPDX-License-Identifier: Apache-2.0
"""Ten thousand malformed messages: each is refused with one sentence, whatever it holds."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images.messages import ENCODINGS, to_rgb

sys.path.insert(0, str(Path(__file__).parent))  # for malformed.py: no test folder is on the path
from malformed import compressed_messages, jpeg_bomb, png_bomb, raw_messages

EACH = 4_500  # hand-made messages of each of the two types; hypothesis makes the rest of 10,000
GUESSED = 500
BOMB_ROOM = 64 << 10  # KiB that memory may grow while the bombs are refused; one would take 10 GB


def memory() -> int:
    """The most memory that this process ever had, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def converted(message: SimpleNamespace) -> tuple[np.ndarray | None, str]:
    """The image, or None and the sentence of its refusal."""
    try:
        return to_rgb(message, max_pixels=10_000), ""
    except UserError as refusal:
        return None, str(refusal)


@pytest.mark.parametrize("make", [raw_messages, compressed_messages])
def test_malformed_messages_are_refused(make) -> None:
    before, sentences = memory(), {}
    for why, message in make(EACH, seed=1):
        with pytest.raises(UserError) as refusal:
            to_rgb(message)
        sentence = str(refusal.value)
        assert sentence.isprintable(), f"{why}: {sentence!r}"
        assert len(sentence) < 250, why
        sentences.setdefault(why, sentence)
    assert len(sentences) >= 7, "each kind came up"
    assert memory() - before < BOMB_ROOM


@pytest.mark.parametrize("bomb", ["png", "jpeg"])
def test_a_bomb_is_refused_by_its_header(bomb: str) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    data = png_bomb() if bomb == "png" else jpeg_bomb(jpeg)
    before = memory()
    with pytest.raises(UserError, match="is over the limit of 50000000 pixels"):
        to_rgb(SimpleNamespace(format="", data=data))
    assert memory() - before < BOMB_ROOM


def test_distances_are_named() -> None:
    message = SimpleNamespace(
        height=2,
        width=2,
        encoding="32FC1",
        is_bigendian=0,
        step=8,
        data=np.full(4, np.nan, np.float32).tobytes(),
    )
    with pytest.raises(UserError, match=r"'32FC1' holds plain numbers such as distances"):
        to_rgb(message)


@settings(max_examples=GUESSED, deadline=None)
@given(
    encoding=st.sampled_from([*ENCODINGS, "", "32FC1", "jpeg"]) | st.text(max_size=60),
    width=st.integers(0, 40) | st.integers(0, 2**32 - 1),
    height=st.integers(0, 40) | st.integers(0, 2**32 - 1),
    step=st.integers(0, 200) | st.integers(0, 2**32 - 1),
    big=st.integers(0, 255),
    data=st.binary(max_size=2000),
)
def test_any_image_message(
    encoding: str, width: int, height: int, step: int, big: int, data: bytes
) -> None:
    message = SimpleNamespace(
        encoding=encoding, width=width, height=height, step=step, is_bigendian=big, data=data
    )
    got, refusal = converted(message)
    assert refusal.isprintable()
    if got is not None:
        assert got.shape == (height, width, 3)
        assert got.dtype == np.uint8


PIXELS = np.random.default_rng(7).integers(0, 256, (6, 10, 3), np.uint8)
JPEG, PNG = (cv2.imencode(ending, PIXELS)[1].tobytes() for ending in (".jpg", ".png"))


@settings(max_examples=GUESSED, deadline=None)
@given(
    source=st.sampled_from([JPEG, PNG]),
    changes=st.lists(st.tuples(st.integers(0, len(JPEG) - 1), st.integers(0, 255)), max_size=4),
    tail=st.binary(max_size=20),
    label=st.text(max_size=20),
)
def test_any_compressed_message(source: bytes, changes: list, tail: bytes, label: str) -> None:
    data = bytearray(source)
    for place, value in changes:
        data[place % len(data)] = value
    got, refusal = converted(SimpleNamespace(format=label, data=bytes(data) + tail))
    assert refusal.isprintable()
    if got is not None:
        assert got.ndim == 3
        assert got.shape[2] == 3
        assert got.dtype == np.uint8
