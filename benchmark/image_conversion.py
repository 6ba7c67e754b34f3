# SPDX-License-Identifier: Apache-2.0
"""What a 1920x1080 image costs on its way to RGB, beside decoders that notice no damage.

    python benchmark/image_conversion.py

All rows are measured by turns in one run, with one thread. `before`: how JPEGs were decoded before
damaged ones were refused.
"""

from __future__ import annotations

import array
import io
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image

from svd_vlm_ros.pictures.messages import to_rgb

ROUNDS = 20
HEIGHT, WIDTH = 1080, 1920


def image() -> np.ndarray:
    """Smooth shapes with a sensor's noise, so that the JPEG has a usual size."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (54, 96, 3), np.uint8)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def raw(pixels: np.ndarray, encoding: str) -> SimpleNamespace:
    return SimpleNamespace(
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // HEIGHT,
        data=array.array("B", pixels.tobytes()),
    )


def main() -> None:
    cv2.setNumThreads(1)
    pixels = image()
    data = cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()
    jpeg = SimpleNamespace(format="jpeg", data=array.array("B", data))
    rgb, bgr = raw(pixels, "rgb8"), raw(pixels, "bgr8")

    def by_opencv() -> np.ndarray:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)

    ways: dict[str, Callable[[], object]] = {
        "JPEG, OpenCV (before)": by_opencv,
        "JPEG, Pillow": lambda: np.asarray(Image.open(io.BytesIO(data))),
        "JPEG, the node": lambda: to_rgb(jpeg),
        "rgb8, the node": lambda: to_rgb(rgb),
        "bgr8, OpenCV (before)": lambda: cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB),
        "bgr8, the node": lambda: to_rgb(bgr),
    }
    assert (by_opencv() == to_rgb(jpeg)).all(), "the pixels are the same"
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            took[name].append(1000 * (time.perf_counter() - begun))
    print(f"{len(data) >> 10} KiB of JPEG; OpenCV {cv2.__version__}\n")
    print("| 1920x1080 | median | best |\n|---|---|---|")
    for name, times in took.items():
        print(f"| {name} | {statistics.median(times):.2f} ms | {min(times):.2f} ms |")


if __name__ == "__main__":
    main()
