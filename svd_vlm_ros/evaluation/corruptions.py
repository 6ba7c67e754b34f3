# SPDX-License-Identifier: Apache-2.0
"""Images as bad weather, cheap cameras and narrow networks leave them.

Twelve of the fifteen common corruptions of Hendrycks & Dietterich (arXiv 1903.12261), with their
published parameters of severities 1 to 5, in OpenCV and NumPy. Left out are frost (it needs a set
of photographs), glass blur and elastic transform (they are not what happens outdoors). The
libraries that have all fifteen do not run beside this package: `imagecorruptions` 1.1.2 fails with
NumPy 2 and needs `opencv-python`, whose files those of `opencv-python-headless` overwrite.

The parameters were published for images of 224 pixels. Lengths are scaled with the shorter side
here, so that a corruption looks alike on a small and on a large image.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import cv2
import numpy as np

from svd_vlm_ros.errors import UserError

SEVERITIES = (1, 2, 3, 4, 5)
PUBLISHED_SIDE = 224  # pixels of the images that the parameters were published for

Image = np.ndarray
Corrupt = Callable[[Image, int, np.random.Generator, float], Image]
"""From an image (float32 [H, W, 3], 0 to 1), severity - 1, a generator and the scale of lengths to
the corrupted image, which may leave 0 to 1.
"""


def corrupt(image: Image, name: str, severity: int, seed: str) -> Image:
    """Corrupt an image; the same seed, the same result.

    Args:
        image: uint8 [H, W, 3], RGB. It is not changed.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: what makes this image's noise its own: its key and the run's seed.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: the name or the severity is not known.
    """
    if name not in CORRUPTIONS:
        raise UserError(f"There is no corruption '{name}': take of {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise UserError(f"A corruption's severity is 1 to 5, not {severity}.")
    rng = np.random.default_rng(zlib.crc32(f"{seed}/{name}".encode()))
    scale = min(image.shape[:2]) / PUBLISHED_SIDE
    done = CORRUPTIONS[name](image.astype(np.float32) / 255, severity - 1, rng, scale)
    return np.clip(np.rint(done * 255), 0, 255).astype(np.uint8)


def _gaussian_noise(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    return image + rng.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[s], image.shape)


def _shot_noise(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    photons = (60, 25, 12, 5, 3)[s]
    return rng.poisson(image * photons) / photons


def _impulse_noise(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[s]
    drawn = rng.random(image.shape)
    image = np.where(drawn < amount / 2, 0.0, image)
    return np.where(drawn > 1 - amount / 2, 1.0, image)


def _defocus_blur(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    radius, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[s]
    wide = radius * scale
    reach = int(np.ceil(wide))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(wide + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    disk = np.asarray(cv2.GaussianBlur(disk, (0, 0), soft))
    return cv2.filter2D(image, -1, disk / disk.sum(), borderType=cv2.BORDER_REFLECT_101)


def _motion_blur(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[s]
    return _smear(image, radius * scale, sigma * scale, rng.uniform(-45, 45))


def _zoom_blur(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    last, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[s]
    height, width = image.shape[:2]
    factors = np.arange(1, last, step)
    total = image.copy()
    for factor in factors:
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), 0, float(factor))
        total += cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return total / (len(factors) + 1)


def _snow(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    mean, spread, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[s]
    height, width = image.shape[:2]
    small = (max(1, round(height / zoom / scale)), max(1, round(width / zoom / scale)))
    flakes = rng.normal(mean, spread, small).astype(np.float32)
    flakes = np.asarray(cv2.resize(flakes, (width, height), interpolation=cv2.INTER_LINEAR))
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1)).astype(np.float32)
    flakes = _smear(flakes, radius * scale, sigma * scale, rng.uniform(-135, -45))[..., None]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    whiter = np.maximum(image, grey * 1.5 + 0.5)
    return keep * image + (1 - keep) * whiter + flakes + np.rot90(flakes, 2)


def _fog(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    thickness, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[s]
    brightest = float(image.max())
    fogged = image + thickness * _plasma(image.shape[0], image.shape[1], decay, rng)[..., None]
    return fogged * brightest / (brightest + thickness)


def _brightness(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[s], 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _contrast(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    mean = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[s] + mean


def _pixelate(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    height, width = image.shape[:2]
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[s] / max(scale, 0.25)
    small = (max(1, round(width * min(share, 1))), max(1, round(height * min(share, 1))))
    image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)


def _jpeg(image: Image, s: int, rng: np.random.Generator, scale: float) -> Image:
    bgr = cv2.cvtColor(np.rint(image * 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    quality = (25, 18, 15, 10, 7)[s]
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    read = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return cv2.cvtColor(read, cv2.COLOR_BGR2RGB).astype(np.float32) / 255


def _smear(image: Image, radius: float, sigma: float, angle: float) -> Image:
    """Blur along a line: half of a Gaussian, one-sided, as a moving camera leaves it."""
    reach = max(1, round(radius))
    line = np.exp(-0.5 * (np.arange(reach + 1) / max(sigma, 1e-3)) ** 2).astype(np.float32)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    kernel[reach, reach:] = line
    turn = cv2.getRotationMatrix2D((reach, reach), angle, 1)
    kernel = np.asarray(cv2.warpAffine(kernel, turn, (2 * reach + 1, 2 * reach + 1)))
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def _plasma(height: int, width: int, decay: float, rng: np.random.Generator) -> Image:
    """Clouds, float32 [height, width] from 0 to 1: noise of every size, the finer the weaker."""
    size, total, weight = 2, np.zeros((height, width), np.float32), 1.0
    while size <= max(height, width):
        noise = rng.random((size + 1, size + 1)).astype(np.float32)
        total += weight * np.asarray(
            cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        )
        size, weight = size * 2, weight / decay
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


CORRUPTIONS: dict[str, Corrupt] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
}
