# SPDX-License-Identifier: Apache-2.0
"""The cameras of `soak.py`: raw, compressed, and a fickle one; with malformed pictures among them.

The fickle camera sends for 20 s and ends for 10 s: its publisher goes. It comes back with the other
reliability, size and encoding.
"""

from __future__ import annotations

import array
import time
from collections import Counter
from typing import Any

import cv2
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from soak_common import CAMERAS, PICTURES, SAVE_EVERY, frame_id, picture, role, save
from std_msgs.msg import Header

PACKED_SIZE, FICKLE_SIZES = (480, 640), ((240, 320), (480, 640))
SENDS, RESTS = 20.0, 10.0  # s of the fickle camera
BROKEN_EVERY = 7  # of the fickle camera's pictures, while faults are wanted


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
        self._data = [self._bytes("raw", number, self._raw_size) for number in range(PICTURES)]
        self._files = [
            array.array("B", cv2.imencode(".png", picture("packed", n, *PACKED_SIZE)[..., ::-1])[1])
            for n in range(PICTURES)
        ]
        node.create_timer(1 / options["rate"], self._send_raw)
        node.create_timer(0.1, self._send_packed)
        node.create_timer(0.1, self._send_fickle)

    @staticmethod
    def _qos(reliable: bool) -> QoSProfile:
        kind = QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT
        return QoSProfile(depth=1, reliability=kind)

    @staticmethod
    def _bytes(camera: str, number: int, size: tuple[int, int], bgr: bool = False) -> array.array:
        pixels = picture(camera, number, *size)
        return array.array("B", (pixels[..., ::-1] if bgr else pixels).tobytes())

    def _header(self, camera: str, number: int, size: tuple[int, int]) -> Header:
        now = self._node.get_clock().now()
        text = frame_id(camera, number, *size, now.nanoseconds)
        return Header(stamp=now.to_msg(), frame_id=text)

    def _send_raw(self) -> None:
        number = self.published["raw"] % PICTURES
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
        number = self.published["packed"] % PICTURES
        header = self._header("packed", number, PACKED_SIZE)
        data = self._files[number]
        self._packed.publish(CompressedImage(header=header, format="png", data=data))
        self.published["packed"] += 1

    def _send_fickle(self) -> None:
        now = time.monotonic()
        if now >= self._changes:
            self._change(now)
        if self._fickle is None:
            return
        number = self.published["fickle"] % PICTURES
        height, width = size = FICKLE_SIZES[self._turn % 2]
        bgr = bool(self._turn % 2)
        message = Image(
            header=self._header("fickle", number, size),
            height=height,
            width=width,
            encoding="bgr8" if bgr else "rgb8",
            step=3 * width,
            data=self._bytes("fickle", number, size, bgr),
        )
        if self._options["fault_every"] and self.published["fickle"] % BROKEN_EVERY == 0:
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
