# SPDX-License-Identifier: Apache-2.0
"""Draws a scene of the world with OpenCV, and the map of which object each pixel shows.

An object is a list of filled shapes. The image and the map draw the same list, once in colours
and once in numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .world import SIZE, WorldObject, WorldScene

Color = tuple[float, float, float]
Drawn = Iterator[tuple[np.ndarray | list[tuple[float, float]], Color]]

RGB: dict[str, Color] = {
    "red": (205, 38, 38),
    "orange": (240, 130, 25),
    "yellow": (240, 215, 50),
    "green": (45, 140, 60),
    "blue": (40, 85, 200),
    "white": (240, 240, 240),
    "black": (38, 38, 42),
    "gray": (136, 138, 142),
    "brown": (122, 80, 46),
}
GROUND_RGB: dict[str, Color] = {
    "grass": (104, 150, 70),
    "gravel": (150, 143, 134),
    "asphalt": (84, 86, 90),
    "sand": (214, 190, 142),
    "snow": (232, 236, 242),
}
PATH_RGB: dict[str, Color] = {
    "grass": (160, 132, 96),
    "gravel": (190, 184, 172),
    "asphalt": (112, 114, 120),
    "sand": (182, 152, 104),
    "snow": (190, 198, 212),
}
SKY_RGB: dict[str, tuple[Color, Color]] = {  # at the top, at the horizon
    "clear": ((70, 130, 215), (185, 215, 242)),
    "overcast": ((150, 154, 160), (200, 202, 206)),
    "dusk": ((74, 58, 112), (244, 150, 92)),
}
DUSK_TINT = np.array((0.94, 0.84, 0.8), np.float32)
SKIN = (224, 178, 146)
DARK = (46, 46, 52)


@dataclass(frozen=True)
class Shape:
    """A filled polygon, float pixels [n, 2], with its colour (RGB)."""

    points: np.ndarray
    color: Color


def render(scene: WorldScene) -> np.ndarray:
    """The image of a scene: uint8 RGB [336, 336, 3]. The same scene gives the same pixels."""
    rng = np.random.default_rng((scene.seed, 1))
    canvas = _background(scene, rng)
    for thing in scene.objects:
        _shadow(canvas, thing)
        for shape in shapes(thing):
            _fill(canvas, shape.points, shape.color)
        if thing.kind == "sign":
            _write_number(canvas, thing)
    out = canvas.astype(np.float32) * scene.light
    if scene.sky == "dusk":
        out *= DUSK_TINT
    if scene.noise > 0:
        sensor = np.random.default_rng((scene.seed, scene.frame, 2))
        out += _white_noise(sensor, SIZE * 3).reshape(out.shape) * scene.noise
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)


def object_map(scene: WorldScene) -> np.ndarray:
    """Which object each pixel shows: int16 [336, 336], the index in `scene.objects`, or -1."""
    canvas = np.full((SIZE, SIZE), -1, np.int16)
    for index, thing in enumerate(scene.objects):
        for shape in shapes(thing):
            cv2.fillPoly(canvas, [_fixed(shape.points)], index, cv2.LINE_8, 4)
    return canvas


def panel_box(thing: WorldObject) -> tuple[float, float, float, float]:
    """The panel of a sign: x0, y0, x1, y1 in pixels."""
    top = thing.base - thing.height
    return thing.x - thing.width / 2, top, thing.x + thing.width / 2, top + 0.52 * thing.height


def shapes(thing: WorldObject) -> Iterator[Shape]:
    """The filled shapes of an object, from back to front, in pixels of the image."""
    rng = np.random.default_rng(thing.look)
    red, green, blue = (float(np.clip(c + rng.uniform(-10, 10), 0, 255)) for c in RGB[thing.color])
    flip = -1.0 if rng.random() < 0.5 else 1.0
    for points, color in _DRAWERS[thing.kind]((red, green, blue), rng):
        placed = np.asarray(points, np.float64) * (flip * thing.width, -thing.height)
        yield Shape(placed + np.array((thing.x, thing.base)), color)


# Each drawer works in the object's own frame: u from -0.5 to 0.5 across, v from 0 at the foot to 1
# at the top.


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = color
    return min(255.0, red * factor), min(255.0, green * factor), min(255.0, blue * factor)


def _rect(u0: float, v0: float, u1: float, v1: float) -> list[tuple[float, float]]:
    return [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]


def _oval(u: float, v: float, ru: float, rv: float, n: int = 18) -> np.ndarray:
    angle = np.arange(n) * (2 * np.pi / n)
    return np.stack((u + ru * np.cos(angle), v + rv * np.sin(angle)), axis=1)


def _tree(body: Color, rng: np.random.Generator) -> Drawn:
    yield _rect(-0.07, 0.0, 0.07, 0.42), _shade(RGB["brown"], 0.85)
    for u, v, ru, rv, f in (
        (-0.22, 0.52, 0.28, 0.18, 0.82),
        (0.22, 0.54, 0.28, 0.18, 0.9),
        (0.0, 0.72, 0.36, 0.28, 1.0),
        (-0.08, 0.8, 0.16, 0.12, 1.12),
    ):
        yield _oval(u + rng.uniform(-0.03, 0.03), v, ru, rv), _shade(body, f)


def _rock(body: Color, rng: np.random.Generator) -> Drawn:
    angle = np.linspace(np.pi, 0.0, 7)
    reach = rng.uniform(0.86, 1.0, 7)
    top = np.stack((0.5 * np.cos(angle) * reach, np.sin(angle) * reach), axis=1)
    top[0], top[-1] = (-0.5, 0.0), (0.5, 0.0)
    yield top, body
    yield np.array([top[1], top[2], top[3], (0.0, 0.45)]), _shade(body, 1.25)
    yield np.array([(0.0, 0.45), top[5], top[6], (0.1, 0.0)]), _shade(body, 0.75)


def _cone(body: Color, rng: np.random.Generator) -> Drawn:
    yield _rect(-0.5, 0.0, 0.5, 0.1), _shade(body, 0.7)
    yield [(-0.36, 0.1), (0.36, 0.1), (0.07, 1.0), (-0.07, 1.0)], body
    yield [(-0.235, 0.42), (0.235, 0.42), (0.17, 0.6), (-0.17, 0.6)], RGB["white"]


def _person(body: Color, rng: np.random.Generator) -> Drawn:
    yield _rect(-0.26, 0.0, -0.04, 0.44), DARK
    yield _rect(0.04, 0.0, 0.26, 0.44), DARK
    yield _rect(-0.48, 0.44, -0.32, 0.78), _shade(body, 0.8)
    yield _rect(0.32, 0.44, 0.48, 0.78), _shade(body, 0.8)
    yield _rect(-0.34, 0.4, 0.34, 0.82), body
    yield _oval(0.0, 0.9, 0.2, 0.1), SKIN


def _car(body: Color, rng: np.random.Generator) -> Drawn:
    yield [(-0.34, 0.55), (0.3, 0.55), (0.18, 0.98), (-0.22, 0.98)], _shade(body, 0.9)
    yield [(-0.27, 0.6), (-0.03, 0.6), (-0.03, 0.9), (-0.18, 0.9)], (150, 180, 200)
    yield [(0.02, 0.6), (0.23, 0.6), (0.14, 0.9), (0.02, 0.9)], (150, 180, 200)
    yield _rect(-0.5, 0.18, 0.5, 0.6), body
    yield _rect(0.44, 0.4, 0.5, 0.52), (250, 240, 170)
    for u in (-0.28, 0.28):
        yield _oval(u, 0.17, 0.1, 0.17), DARK
        yield _oval(u, 0.17, 0.05, 0.08), (170, 170, 175)


def _barrel(body: Color, rng: np.random.Generator) -> Drawn:
    yield _oval(0.0, 0.1, 0.5, 0.1), _shade(body, 0.75)
    yield _rect(-0.5, 0.1, 0.5, 0.9), body
    yield _rect(0.22, 0.1, 0.5, 0.9), _shade(body, 0.8)
    for v in (0.33, 0.63):
        yield _rect(-0.5, v, 0.5, v + 0.06), _shade(body, 0.55)
    yield _oval(0.0, 0.9, 0.5, 0.1), _shade(body, 1.25)


def _box(body: Color, rng: np.random.Generator) -> Drawn:
    yield _rect(-0.5, 0.0, 0.28, 0.74), body
    yield [(-0.5, 0.74), (0.28, 0.74), (0.5, 1.0), (-0.26, 1.0)], _shade(body, 1.22)
    yield [(0.28, 0.0), (0.5, 0.26), (0.5, 1.0), (0.28, 0.74)], _shade(body, 0.72)
    yield _rect(-0.17, 0.0, -0.05, 0.74), _shade(body, 0.85)


def _sign(body: Color, rng: np.random.Generator) -> Drawn:
    yield _rect(-0.05, 0.0, 0.05, 0.6), (110, 112, 118)
    yield _rect(-0.5, 0.48, 0.5, 1.0), _shade(body, 0.45)
    yield _rect(-0.47, 0.5, 0.47, 0.98), body


_DRAWERS = {
    "tree": _tree,
    "rock": _rock,
    "cone": _cone,
    "person": _person,
    "car": _car,
    "barrel": _barrel,
    "box": _box,
    "sign": _sign,
}


def _fixed(points: np.ndarray) -> np.ndarray:
    """Points in OpenCV's fixed-point coordinates with 4 fractional bits."""
    return np.round(np.asarray(points) * 16).astype(np.int32).reshape(-1, 1, 2)


def _fill(canvas: np.ndarray, points: np.ndarray, color: Color) -> None:
    cv2.fillPoly(canvas, [_fixed(points)], color, cv2.LINE_AA, 4)


def _shadow(canvas: np.ndarray, thing: WorldObject) -> None:
    """A dark oval under the object, blended at one third."""
    half_w, half_h = 0.5 * thing.width, max(2.0, 0.06 * thing.width)
    x0, x1 = int(max(0, thing.x - half_w)), int(min(SIZE, thing.x + half_w + 1))
    y0, y1 = int(max(0, thing.base - half_h)), int(min(SIZE, thing.base + half_h + 1))
    if x0 >= x1 or y0 >= y1:
        return
    part = canvas[y0:y1, x0:x1]
    dark = part.copy()
    middle = _fixed(np.array([(thing.x - x0, thing.base - y0)])).reshape(2)
    axes = (int(half_w * 16), int(half_h * 16))
    cv2.ellipse(
        dark, tuple(int(v) for v in middle), axes, 0, 0, 360, (30, 30, 30), -1, cv2.LINE_AA, 4
    )
    canvas[y0:y1, x0:x1] = cv2.addWeighted(part, 0.67, dark, 0.33, 0)


def _write_number(canvas: np.ndarray, thing: WorldObject) -> None:
    """The two digits of a sign, as large as its panel allows."""
    x0, y0, x1, y1 = panel_box(thing)
    ink = (250, 250, 250) if thing.color in ("blue", "green") else (20, 20, 20)
    text, font = f"{thing.number:02d}", cv2.FONT_HERSHEY_DUPLEX
    (w, h), _ = cv2.getTextSize(text, font, 1.0, 2)
    size = min(0.82 * (x1 - x0) / w, 0.68 * (y1 - y0) / h)
    width = max(1, round(size * 2.2))
    corner = (round((x0 + x1 - size * w) / 2), round((y0 + y1 + size * h) / 2))
    cv2.putText(canvas, text, corner, font, size, ink, width, cv2.LINE_AA)


def _background(scene: WorldScene, rng: np.random.Generator) -> np.ndarray:
    """Sky, ground with its texture, and the path: uint8 [336, 336, 3]."""
    horizon = int(scene.horizon)
    top, low = (np.array(c, np.float32) for c in SKY_RGB[scene.sky])
    ramp = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
    out = np.empty((SIZE, SIZE, 3), np.float32)
    out[:horizon] = top + ramp * (low - top)
    if scene.sky != "dusk":
        clouds = _smooth_noise(rng, horizon, SIZE, 9, 44)[..., None]
        strength = 22.0 if scene.sky == "overcast" else 26.0
        out[:horizon] += strength * (
            clouds if scene.sky == "overcast" else np.maximum(clouds - 0.5, 0)
        )
    out[horizon:] = np.array(GROUND_RGB[scene.ground], np.float32)
    out[horizon:] += _ground_texture(scene.ground, rng, SIZE - horizon)
    canvas = np.clip(out, 0, 255).astype(np.uint8)
    _draw_path(canvas, scene)
    return canvas


def _ground_texture(ground: str, rng: np.random.Generator, rows: int) -> np.ndarray:
    """What is added to the ground's plain colour: float32 [rows, 336, 1]."""
    fine = _white_noise(rng, rows).reshape(rows, SIZE)
    if ground == "grass":  # upright blades
        texture = cv2.blur(fine, (1, 5)) * 34 + _smooth_noise(rng, rows, SIZE, 16, 24) * 8
    elif ground == "gravel":  # pebbles
        texture = cv2.blur(fine, (3, 3)) * 52
    elif ground == "asphalt":
        texture = fine * 5
    elif ground == "sand":  # ripples that lie across
        texture = cv2.blur(fine, (25, 3)) * 46 + fine * 3
    else:  # snow: soft drifts
        texture = _smooth_noise(rng, rows, SIZE, 9, 30) * 9
    return texture[..., None]


@lru_cache(maxsize=1)
def _noise_table() -> np.ndarray:
    """A million normal numbers, drawn once: drawing them anew for each image took half of its
    time.
    """
    return np.random.default_rng(20260101).standard_normal(1 << 20, dtype=np.float32)


def _white_noise(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Noise of deviation 1: float32 [rows * 336], a stretch of the table that begins at a place
    drawn from the seed.
    """
    count = rows * SIZE
    start = int(rng.integers(0, (1 << 20) - count))
    return _noise_table()[start : start + count]


def _smooth_noise(
    rng: np.random.Generator, rows: int, columns: int, down: int, across: int
) -> np.ndarray:
    """Noise with a length scale of `down` x `across` pixels and deviation of about 1: float32
    [rows, columns].
    """
    coarse = rng.standard_normal((rows // down + 2, columns // across + 2), dtype=np.float32)
    return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)


def _draw_path(canvas: np.ndarray, scene: WorldScene) -> None:
    far = scene.path.at(scene.horizon, scene.horizon)
    near = scene.path.at(SIZE, scene.horizon)
    outline = np.array(
        [(far[0], scene.horizon), (far[1], scene.horizon), (near[1], SIZE), (near[0], SIZE)]
    )
    layer = canvas.copy()
    _fill(layer, outline, PATH_RGB[scene.ground])
    cv2.addWeighted(layer, 0.85, canvas, 0.15, 0, dst=canvas)
    edge = _shade(PATH_RGB[scene.ground], 0.72)
    for a, b in ((0, 3), (1, 2)):
        ends = [tuple(int(v) for v in _fixed(outline[i : i + 1]).reshape(2)) for i in (a, b)]
        cv2.line(canvas, ends[0], ends[1], edge, 2, cv2.LINE_AA, 4)
