# SPDX-License-Identifier: Apache-2.0
"""The cameras of `soak.py`: raw, compressed, and a fickle one; with malformed images among them.

The fickle camera sends for 20 s and ends for 10 s: its publisher goes. It comes back with the other
reliability, size and encoding.
"""

from __future__ import annotations

import array
import itertools
import time
from collections import Counter
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image
from soak_common import CAMERAS, IMAGES, SAVE_EVERY, frame_id, image_of, role, save
from std_msgs.msg import Header

PACKED_SIZE, FICKLE_SIZES = (480, 640), ((240, 320), (480, 640))
SENDS, RESTS = 20.0, 10.0  # s of the fickle camera
BROKEN_EVERY = 7  # of the fickle camera's images, while faults are wanted
ODD_EVERY = 11  # of the packed camera's
AHEAD_EVERY = 13  # of the fickle camera's; these are stamped ahead of the clock
AHEAD = 3_600_000_000_000  # ns


def odd_files() -> dict[str, tuple[array.array, str]]:
    """Data and format of compressed messages that are no images, by what they are."""
    pixels = image_of("packed", 0, *PACKED_SIZE)
    jpeg = cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()
    half = jpeg[: len(jpeg) // 2]
    depth = cv2.imencode(".png", pixels[..., 0].astype(np.uint16) * 16)[1].tobytes()
    return {
        "JPEG of which the half is missing": (array.array("B", half + b"\xff\xd9"), "jpeg"),
        "JPEG of which a packet is missing": (array.array("B", half + jpeg[-2000:]), "jpeg"),
        "depth as PNG": (array.array("B", depth), "16UC1; png compressed "),
        "compressedDepth": (array.array("B", bytes(12) + depth), "16UC1; compressedDepth png"),
    }


class Cameras:
    """Three publishers and what they send."""

    def __init__(self, node: Any, options: dict[str, Any]) -> None:
        self.published: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._node, self._options = node, options
        self._raw_size = (options["height"], options["width"])
        self._raw = node.create_publisher(Image, CAMERAS["raw"], self._qos(True))
        self._packed = node.create_publisher(CompressedImage, CAMERAS["packed"], self._qos(True))
        self._fickle: Any = None
        self._turn = 0
        self._changes = 0.0
        self._data = [self._bytes("raw", number, self._raw_size) for number in range(IMAGES)]
        self._files = [
            array.array(
                "B", cv2.imencode(".png", image_of("packed", n, *PACKED_SIZE)[..., ::-1])[1]
            )
            for n in range(IMAGES)
        ]
        self._odd_files = odd_files()
        self._odd = itertools.cycle(self._odd_files)
        node.create_timer(1 / options["rate"], self._send_raw)
        node.create_timer(0.1, self._send_packed)
        node.create_timer(0.1, self._send_fickle)

    @staticmethod
    def _qos(reliable: bool) -> QoSProfile:
        kind = QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT
        return QoSProfile(depth=1, reliability=kind)

    @staticmethod
    def _bytes(camera: str, number: int, size: tuple[int, int], bgr: bool = False) -> array.array:
        pixels = image_of(camera, number, *size)
        return array.array("B", (pixels[..., ::-1] if bgr else pixels).tobytes())

    def _header(self, camera: str, number: int, size: tuple[int, int], ahead: int = 0) -> Header:
        stamp = Time(nanoseconds=self._node.get_clock().now().nanoseconds + ahead)
        text = frame_id(camera, number, *size, stamp.nanoseconds)
        return Header(stamp=stamp.to_msg(), frame_id=text)

    def _send_raw(self) -> None:
        number = self.published["raw"] % IMAGES
        height, width = self._raw_size
        self._raw.publish(
            Image(
                header=self._header("raw", number, self._raw_size),
                height=height,
                width=width,
                encoding="rgb8",
                step=3 * width,
                data=self._data[number],
            )
        )
        self.published["raw"] += 1

    def _send_packed(self) -> None:
        number = self.published["packed"] % IMAGES
        header = self._header("packed", number, PACKED_SIZE)
        data, label = self._files[number], "png"
        if self._options["fault_every"] and self.published["packed"] % ODD_EVERY == 0:
            header.frame_id = "no image: an answer about it has a wrong header"
            what = next(self._odd)
            data, label = self._odd_files[what]
            self.faults[what] += 1
        self._packed.publish(CompressedImage(header=header, format=label, data=data))
        self.published["packed"] += 1

    def _send_fickle(self) -> None:
        now = time.monotonic()
        if now >= self._changes:
            self._change(now)
        if self._fickle is None:
            return
        number = self.published["fickle"] % IMAGES
        height, width = size = FICKLE_SIZES[self._turn % 2]
        bgr = bool(self._turn % 2)
        faulty = bool(self._options["fault_every"])
        ahead = faulty and self.published["fickle"] % AHEAD_EVERY == 0
        self.faults["stamp an hour ahead"] += ahead
        message = Image(
            header=self._header("fickle", number, size, AHEAD if ahead else 0),
            height=height,
            width=width,
            encoding="bgr8" if bgr else "rgb8",
            step=3 * width,
            data=self._bytes("fickle", number, size, bgr),
        )
        if faulty and self.published["fickle"] % BROKEN_EVERY == 0:
            message.step -= 1
            self.faults["malformed picture"] += 1
        self._fickle.publish(message)
        self.published["fickle"] += 1

    def _change(self, now: float) -> None:
        """End the fickle camera, or let it come back otherwise."""
        if self._fickle is not None:
            self._node.destroy_publisher(self._fickle)
            self._fickle = None
            self._changes = now + RESTS
            self.faults["camera ends and comes back with another size, encoding and QoS"] += 1
            return
        self._turn += 1
        qos = self._qos(bool(self._turn % 2))
        self._fickle = self._node.create_publisher(Image, CAMERAS["fickle"], qos)
        self._changes = now + SENDS


def main() -> None:
    folder, options, stopped = role()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("soak_cameras")
    cameras = Cameras(node, options)
    saved = 0.0
    try:
        while not stopped.is_set():
            rclpy.spin_once(node, timeout_sec=0.1)
            if time.monotonic() - saved > SAVE_EVERY:
                saved = time.monotonic()
                figures = {"published": cameras.published, "faults": cameras.faults}
                save(folder, "cameras", figures)
    except ExternalShutdownException:
        pass
    save(folder, "cameras", {"published": cameras.published, "faults": cameras.faults})


if __name__ == "__main__":
    main()
