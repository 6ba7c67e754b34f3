# SPDX-License-Identifier: Apache-2.0
"""The node `scout_camera`: a camera that drives through Scout's world.

Publishes the images of `svd_vlm_ros.scout.drive` on `image` (rgb8), if wanted also on
`image/compressed` (JPEG), and what each of them shows on `scout_truth`, as JSON:

    {"stamp": {"sec": ..., "nanosec": ...}, "frame_id": ...,   of the image's header
     "t": ..., "seed": ...,                                    the scene is drive(t, seed)
     "scene": {...}}                                           what `world.truth` gives for it
"""

from __future__ import annotations

import array
import json
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from svd_vlm_ros.ros.parameters import Spec, When
from svd_vlm_ros.scout.drive import LENGTH, drive
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import WorldScene, truth

# Reliable, so that it matches every subscription.
_IMAGES = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)


class ScoutCamera(Node):
    """Publishes one image every 1 / `rate` seconds; the drive of 60 s begins at `start_time`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("scout_camera", **options)
        rate = self._declare("rate", 5.0, "Images a second.", 0.01, 60.0)
        self._seed = self._declare(
            "seed", 0, "Which of the drives, each with its own scenes.", 0, 9999
        )
        self._start = self._declare(
            "start_time",
            0.0,
            "Second of the drive at which the first image is taken.",
            0.0,
            LENGTH,
        )
        self._frozen = self._declare(
            "frozen", False, "Stand still: publish the scene of start_time again and again."
        )
        self._compressed = self._declare(
            "compressed", False, "Publish each image also as JPEG on image/compressed."
        )
        self._quality = self._declare("jpeg_quality", 90, "Quality of the JPEG.", 1, 100)
        self._frame_id = self._declare(
            "frame_id", "scout_camera", "frame_id in the images' headers."
        )
        self._images = self.create_publisher(Image, "image", _IMAGES)
        self._files = None
        if self._compressed:
            self._files = self.create_publisher(CompressedImage, "image/compressed", _IMAGES)
        self._truths = self.create_publisher(String, "scout_truth", _LATCHED)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._begun = self._steady.now()
        self.create_timer(1.0 / rate, self._publish, clock=self._steady)
        self.get_logger().info(f"Publishing {rate:g} images a second on {self._images.topic_name}.")

    def _publish(self) -> None:
        gone = 0.0 if self._frozen else (self._steady.now() - self._begun).nanoseconds * 1e-9
        t = self._start + gone
        scene = drive(t, self._seed)
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._frame_id)
        image = render(scene)
        # The truth goes first: a client that has the image can look it up.
        self._truths.publish(String(data=truth_json(header, t, self._seed, scene)))
        self._images.publish(image_message(image, header))
        if self._files is not None:
            self._files.publish(compressed_message(image, header, self._quality))

    def _declare(
        self,
        name: str,
        default: Any,
        text: str,
        low: float | None = None,
        high: float | None = None,
    ) -> Any:
        spec = Spec(name, default, text, When.START, low, high)
        return self.declare_parameter(name, default, spec.descriptor()).value


def image_message(image: np.ndarray, header: Header) -> Image:
    """An image, uint8 RGB [H, W, 3], as sensor_msgs/Image in rgb8."""
    height, width, _ = image.shape
    return Image(
        header=header,
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=array.array("B", image.tobytes()),
    )


def compressed_message(image: np.ndarray, header: Header, quality: int = 90) -> CompressedImage:
    """An image, uint8 RGB [H, W, 3], as JPEG of quality 1 to 100 in CompressedImage."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(
        header=header, format="rgb8; jpeg compressed bgr8", data=array.array("B", data.tobytes())
    )


def truth_json(header: Header, t: float, seed: int, scene: WorldScene) -> str:
    """The data of `scout_truth` for the image with this header; see the module's docstring."""
    stamp: Time = header.stamp
    return json.dumps(
        {
            "stamp": {"sec": stamp.sec, "nanosec": stamp.nanosec},
            "frame_id": header.frame_id,
            "t": t,
            "seed": seed,
            "scene": truth(scene),
        }
    )
