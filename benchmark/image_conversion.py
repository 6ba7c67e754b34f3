# SPDX-License-Identifier: Apache-2.0
"""What a 1920x1080 image costs on its way to RGB, beside decoders that notice no damage.

    git show 03bc653:svd_vlm_ros/pictures/messages.py > old.py
    sed s/picture/image/g old.py > before.py
    python benchmark/image_conversion.py --before before.py

Processor time of the thread; all rows by turns in one run. `before`: the messages.py of another
commit, here the one before damaged JPEGs were refused. Quality 80 is usual for cameras, 95 is
image_transport's default.
"""

from __future__ import annotations

import argparse
import array
import io
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image

from svd_vlm_ros.images.messages import to_rgb

QUALITIES = 80, 95
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


def messages(pixels: np.ndarray) -> dict[str, SimpleNamespace]:
    """The image as a camera driver may send it."""
    made = {}
    for quality in QUALITIES:
        flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
        data = cv2.imencode(".jpg", pixels[..., ::-1], flags)[1].tobytes()
        made[f"JPEG {quality}, {len(data) >> 10} KiB"] = SimpleNamespace(
            format="jpeg", data=array.array("B", data)
        )
    return {**made, "rgb8": raw(pixels, "rgb8"), "bgr8": raw(pixels, "bgr8")}


def ways_to_rgb(message: SimpleNamespace, before: Callable | None) -> dict[str, Callable]:
    ways: dict[str, Callable] = {} if before is None else {"before": lambda: before(message)}
    if hasattr(message, "format"):

        def by_opencv() -> np.ndarray:
            decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
            return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)

        ways["OpenCV"] = by_opencv
        ways["Pillow"] = lambda: np.asarray(Image.open(io.BytesIO(message.data)))
        ways["the node, allow_damaged_images"] = lambda: to_rgb(message, allow_damaged=True)
    ways["the node"] = lambda: to_rgb(message)
    first = next(iter(ways.values()))
    assert (first() == to_rgb(message)).all(), "the pixels are the same"
    return ways


def load(path: Path) -> Callable:
    """`to_rgb` of another commit's messages.py."""
    spec = spec_from_file_location("before", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["before"] = module
    spec.loader.exec_module(module)
    return module.to_rgb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="of all rows by turns")
    parser.add_argument("--before", type=Path, help="messages.py of another commit")
    arguments = parser.parse_args()
    before = load(arguments.before) if arguments.before else None
    cv2.setNumThreads(1)
    ways = {
        (kind, way): call
        for kind, message in messages(image()).items()
        for way, call in ways_to_rgb(message, before).items()
    }
    took: dict[tuple[str, str], list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            begun = time.thread_time()
            way()
            took[name].append(1000 * (time.thread_time() - begun))
    medians = {name: statistics.median(times) for name, times in took.items()}
    print(f"OpenCV {cv2.__version__}, simplejpeg {version('simplejpeg')}\n")
    print("| 1920x1080 | by | median | best | of the first |\n|---|---|---|---|---|")
    for (kind, way), median in medians.items():
        first = next(m for (k, _), m in medians.items() if k == kind)
        best = min(took[kind, way])
        print(f"| {kind} | {way} | {median:.2f} ms | {best:.2f} ms | {median / first:.2f} |")


if __name__ == "__main__":
    main()
