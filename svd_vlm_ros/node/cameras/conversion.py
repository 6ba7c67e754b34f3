# SPDX-License-Identifier: Apache-2.0
"""Images of ROS messages to RGB arrays, with the help of cv_bridge if it can be imported.

The work is done by `images.messages`; cv_bridge changes the colours in OpenCV's place, and calls
the same OpenCV functions for it. Unpacking rows is always ours: cv_bridge's Python side shears
images whose padded row is not a whole number of pixels, and fails on big-endian data beside
NumPy 2. For compressed images cv_bridge would only call cv2.imdecode.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from svd_vlm_ros.images import messages
from svd_vlm_ros.images.messages import MAX_PIXELS, Convert

__all__ = ["MAX_PIXELS", "cv_bridge_converter", "to_rgb"]

_PROBE_SECONDS = 30.0
_PROBE = """
import numpy as np
from cv_bridge import CvBridge
bridge, image = CvBridge(), np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
converted = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(image, "bgr8"), "rgb8")
raise SystemExit(0 if (converted == image[..., ::-1]).all() else 1)
"""


def to_rgb(
    message: Any,
    max_pixels: int = MAX_PIXELS,
    use_cv_bridge: bool | None = None,
    allow_damaged: bool = False,
) -> np.ndarray:
    """As `images.messages.to_rgb`; `use_cv_bridge` None takes it if it can be imported."""
    convert = cv_bridge_converter() if use_cv_bridge in (None, True) else None
    return messages.to_rgb(message, max_pixels, convert, allow_damaged)


@functools.lru_cache(maxsize=1)
def cv_bridge_converter() -> Convert | None:
    """(pixels, encoding) -> uint8 RGB by cv_bridge, or None if it is absent or cannot work.

    A cv_bridge that was compiled for another NumPy may abort the whole process, so another one
    tries first.
    """
    if importlib.util.find_spec("cv_bridge") is None or not _cv_bridge_works():
        return None
    from cv_bridge import CvBridge

    bridge = CvBridge()

    def convert(pixels: np.ndarray, encoding: str) -> np.ndarray:
        height, width = pixels.shape[:2]
        message = SimpleNamespace(
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=int(pixels.itemsize > 1 and sys.byteorder == "big"),
            step=pixels.strides[0],
            data=pixels.tobytes(),
        )
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))

    return convert


def _cv_bridge_works() -> bool:
    """Whether another process converts one image through cv_bridge and gets what OpenCV gives."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
