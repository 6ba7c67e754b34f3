# SPDX-License-Identifier: Apache-2.0
"""Recorded bags for the tests: two cameras, a topic of an unknown type, broken images."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

FRONT, REAR, ODD = "/front/image_raw", "/rear/image/compressed", "/odd"
ODD_TYPE = "somebody_msgs/msg/Odd"
BEGIN = 10**18  # ns
PERIOD = 10**8


def image(number: int) -> np.ndarray:
    """uint8 RGB [48, 64, 3], unlike all others."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


def make_bag(
    folder: Path,
    frames: int = 4,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    broken: Container[int] = (),
) -> Path:
    """Record `frames` images of each camera, ten a second. The folder, or its .mcap."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg("float64 value\nstring[] words\n", ODD_TYPE))
    types = store.types
    with Writer(folder, version=8, storage_plugin=plugin) as writer:
        front = writer.add_connection(FRONT, "sensor_msgs/msg/Image", typestore=store)
        rear = writer.add_connection(REAR, "sensor_msgs/msg/CompressedImage", typestore=store)
        odd = writer.add_connection(ODD, ODD_TYPE, typestore=store)
        for number in range(frames):
            time = BEGIN + number * PERIOD
            seconds, rest = divmod(time - 5_000_000, 10**9)  # taken before it was recorded
            stamp = types["builtin_interfaces/msg/Time"](seconds, rest)
            pixels = image(number)
            encoding = "32FC1" if number in broken else "rgb8"
            jpeg = cv2.imencode(".jpg", pixels[..., ::-1])[1].reshape(-1)

            def header(frame_id: str, stamp=stamp):
                return types["std_msgs/msg/Header"](stamp, frame_id)

            for connection, message in (
                (
                    front,
                    types["sensor_msgs/msg/Image"](
                        header("front"), 48, 64, encoding, 0, 3 * 64, pixels.reshape(-1)
                    ),
                ),
                (odd, types[ODD_TYPE](float(number), ["a", "b"])),
                (rear, types["sensor_msgs/msg/CompressedImage"](header("rear"), "jpeg", jpeg)),
            ):
                data = store.serialize_cdr(message, connection.msgtype)
                writer.write(connection, time, data)
                time += 1_000_000
    return folder if plugin is StoragePlugin.SQLITE3 else folder / f"{folder.name}.mcap"
