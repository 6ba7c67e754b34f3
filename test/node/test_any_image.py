# SPDX-License-Identifier: Apache-2.0
"""Images whose answer is known, in every encoding and with every damage: right, or NO_IMAGE.

    make any-image CASES=2000

A handful of the same cases is part of the suite. Files are damaged anywhere, their headers too,
but for WebP, which has nothing that shows changed bytes (docs/node.md, "Cameras").
"""

from __future__ import annotations

import array
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from robot import Robot, image_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from svd_vlm_ros.images.encodings import ENCODINGS
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.srv import AskScene

CASES = int(os.environ.get("ANY_IMAGE_CASES", "24"))
QUESTION = "what is the ground?"  # a kind that scout does not get wrong
GROUNDS = ["grass", "gravel", "asphalt", "sand", "snow"]
SEEDS = range(12)
Response = AskScene.Response
Rng = np.random.Generator
# ITU-R BT.601, limited range: rows Y, U and V of R, G, B.
_YUV = np.array([[0.257, 0.504, 0.098], [-0.148, -0.291, 0.439], [0.439, -0.368, -0.071]])
LABELS = {
    ".jpg": ("jpeg", "", "jpg", "rgb8; jpeg compressed bgr8", "BGR8; jpeg compressed bgr8"),
    ".png": ("png", "", "rgb8; png compressed bgr8", "bgr8; png compressed"),
    ".webp": ("webp", "", "rgb8; webp compressed bgr8"),
}


@pytest.fixture(scope="module")
def robot(robot_of_module: Robot) -> Robot:
    robot_of_module.start(
        model="scout",
        precision="bf16",
        allow_random_model=False,
        cameras=["raw", "packed"],
        **{
            "camera.raw.topic": "raw",
            "camera.packed.topic": "packed",
            "camera.packed.compressed": True,
        },
    )
    return robot_of_module


def encoded_raw(rgb: np.ndarray, name: str) -> Image:
    """An Image in this encoding; grey ones are left to those that have colours."""
    height, width = rgb.shape[:2]
    kind = ENCODINGS[name]
    plain = name.lower().removesuffix("16").removesuffix("8")
    yuv = np.clip(rgb @ _YUV.T + (16, 128, 128), 0, 255).round().astype(np.uint8)
    alpha = np.full((height, width, 1), 255, np.uint8)
    if kind.mosaic:
        sites = np.array(["rgb".index(c) for c in plain.removeprefix("bayer_")]).reshape(2, 2)
        channel = np.tile(sites, (height // 2, width // 2))
        pixels = np.take_along_axis(rgb, channel[..., None], 2)
    elif kind.chroma:
        chroma = yuv[..., 1:] if kind.chroma == 2.0 else yuv[::2, ::2, 1:]
        chroma = chroma[..., ::-1] if name == "nv21" else chroma
        pixels = np.vstack([yuv[..., 0], chroma.reshape(-1, width)])[..., None]
    elif kind.columns_even:
        pairs = yuv[:, ::2, 1:].reshape(height, width)  # U and V by turns
        order = (pairs, yuv[..., 0]) if name in ("yuv422", "uyvy") else (yuv[..., 0], pairs)
        pixels = np.stack(order, axis=-1)
    else:
        pixels = rgb[..., ::-1] if plain in ("bgr", "bgra", "8uc3", "8uc4", "8uc") else rgb
        pixels = np.concatenate([pixels, alpha], axis=2) if kind.channels == 4 else pixels
    if kind.itemsize == 2:
        pixels = pixels.astype(np.uint16) * 257
    message = image_message(np.ascontiguousarray(pixels), encoding=name)
    message.height = height
    return message


def encoded_file(rgb: np.ndarray, ending: str, rng: Rng) -> bytes:
    options: list[int] = []
    if ending == ".jpg":
        options = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 96))]
        options += [cv2.IMWRITE_JPEG_PROGRESSIVE, int(rng.integers(2))]
    return cv2.imencode(ending, rgb[..., ::-1], options)[1].tobytes()


def damaged_raw(message: Image, rng: Rng) -> str:
    """Damage the message in place; how."""
    data = message.data.tobytes()
    at = int(rng.integers(1, len(data)))
    changes: dict[str, Callable[[], None]] = {
        "short": lambda: setattr(message, "data", array.array("B", data[:at])),
        "long": lambda: setattr(message, "data", array.array("B", data + data[:at])),
        "step": lambda: setattr(message, "step", message.step + int(rng.choice([-1, 1, 64]))),
        "height": lambda: setattr(message, "height", message.height + int(rng.choice([-2, 2]))),
        "depth": lambda: setattr(message, "encoding", str(rng.choice(["16UC1", "32FC1", "64FC3"]))),
        "name": lambda: setattr(message, "encoding", message.encoding[:-1] + "?"),
        "flipped": lambda: setattr(message, "data", array.array("B", flipped(data, rng))),
    }
    kind = str(rng.choice(list(changes)))
    changes[kind]()
    return kind


def flipped(data: bytes, rng: Rng) -> bytes:
    """One to three bits changed."""
    changed = bytearray(data)
    for at in rng.integers(len(data), size=int(rng.integers(1, 4))):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def swapped(data: bytes, first: int, second: int, size: int) -> bytes:
    """Two pieces in each other's place."""
    first, second = sorted((first, second))
    second = max(second, first + size)
    a, b = data[first : first + size], data[second : second + size]
    return data[:first] + b + data[first + size : second] + a + data[second + size :]


def damaged_file(data: bytes, ending: str, rng: Rng) -> tuple[str, bytes]:
    """A file with a part missing, changed or from elsewhere; how."""
    size = int(rng.integers(16, 600))
    at, other = (int(i) for i in rng.integers(len(data) - size, size=2))
    rest = data[at + size :]
    kinds = {
        "cut": data[:at],
        "hole": data[:at] + rest,
        "repeated": data[: at + size] + data[at:],
        "flipped": flipped(data, rng),
        "zeroed": data[:at] + bytes(size) + rest,
        "spliced": data[:at] + data[other : other + size] + rest,
        "swapped": swapped(data, at, other, size),
    }
    if ending == ".jpg":
        kinds["cut with an end"] = data[:at] + b"\xff\xd9"
    elif ending == ".webp":
        kinds = {"cut": data[:at]}
    kind = str(rng.choice(list(kinds)))
    return kind, kinds[kind]


COLOURS = [name for name, kind in ENCODINGS.items() if kind.channels > 1 or kind.mosaic]
COLOURS += ["nv12", "nv21", "nv24", "RGB8", "BGR8"]


def case(rng: Rng) -> tuple[str, Any, str, bool]:
    """Camera, message, the true answer, and whether it was damaged."""
    seed = int(rng.choice(SEEDS))
    scene = drive(8.0, seed)
    damage = bool(rng.integers(2))
    if rng.integers(2):
        name = str(rng.choice(COLOURS))
        message = encoded_raw(render(scene), name if name in ENCODINGS else name.lower())
        message.encoding = name
        how = damaged_raw(message, rng) if damage else "whole"
        return f"raw {name} {how}", message, scene.ground, damage
    ending = str(rng.choice(list(LABELS)))
    data, how = encoded_file(render(scene), ending, rng), "whole"
    if damage:
        how, data = damaged_file(data, ending, rng)
    label = str(rng.choice(LABELS[ending]))
    message = CompressedImage(header=Header(), format=label, data=array.array("B", data))
    return f"packed {ending} '{label}' {how}", message, scene.ground, damage


def test_the_answer_is_right_or_there_is_no_image(robot: Robot) -> None:
    ended: Counter[str] = Counter()
    wrong = []
    for number in range(CASES):
        what, message, truth, damaged = case(np.random.default_rng(number))
        camera = what.split()[0]
        shown = robot.show(message, camera)
        reply = robot.ask(QUESTION, choices=GROUNDS, camera=camera, timeout=90.0)
        if reply.status == Response.OK:
            assert reply.header == shown.header
            ended["right, though damaged" if damaged else "right"] += 1
            if reply.answer != truth:
                wrong.append(f"{number}: {what}: {reply.answer}, not {truth}")
        else:
            assert reply.status == Response.NO_IMAGE, f"{number}: {what}: {reply.message}"
            assert damaged, f"{number}: {what} is refused: {reply.message}"
            ended["NO_IMAGE"] += 1
    print(dict(ended))
    assert not wrong, "\n".join(wrong)
    assert ended["right"]
    assert ended["NO_IMAGE"]
