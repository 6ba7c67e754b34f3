# SPDX-License-Identifier: Apache-2.0
"""What the processes of `soak.py` share: images named by their headers, and figures."""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CAMERAS = {"raw": "raw/image", "packed": "packed/image/compressed", "fickle": "fickle/image"}
IMAGES = 6  # different ones of each camera
WARM_UP = 300.0  # s, or a fifth of a shorter run, before memory counts
SAVE_EVERY = 5.0  # s between two writings of a role's figures


def role() -> tuple[Path, dict[str, Any], threading.Event]:
    """Folder and options that `soak.py` gave, and what a signal sets."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return Path(sys.argv[1]), json.loads(sys.argv[2]), stopped


def save(folder: Path, name: str, figures: dict[str, Any]) -> None:
    """Write a role's figures in one move."""
    part = folder / f"{name}.part"
    part.write_text(json.dumps(figures))
    part.replace(folder / f"{name}.json")


@functools.lru_cache(maxsize=64)
def image_of(camera: str, number: int, height: int, width: int) -> np.ndarray:
    """uint8 RGB [height, width, 3]: coarse squares, unlike those of other numbers and cameras."""
    seed = list(CAMERAS).index(camera) * 1000 + number
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)


def frame_id(camera: str, number: int, height: int, width: int, stamp: int) -> str:
    """A header's frame_id that names the image that it belongs to."""
    return f"{camera}/{number}/{height}x{width}/{stamp}"


def read_frame_id(text: str) -> tuple[str, int, int, int, int]:
    """Camera, number, height, width, stamp (ns)."""
    camera, number, size, stamp = text.split("/")
    height, width = size.split("x")
    return camera, int(number), int(height), int(width), int(stamp)


def percentile(values: list[float], share: float) -> float:
    """Of a sorted list that is not empty."""
    return values[round((len(values) - 1) * share)]


def warm_up(options: dict[str, Any]) -> float:
    """Seconds from the start before memory counts."""
    return min(WARM_UP, 60.0 * options["minutes"] / 5)
