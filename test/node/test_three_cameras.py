# SPDX-License-Identifier: Apache-2.0
"""Three cameras and four clients at once: every request ends, and about the right image.

Each image says in its pixels which camera took it and when: the engine is watched, and what it
saw must be what the reply's header names. `make soak` does the same for longer, with faults.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from rclpy.qos import qos_profile_sensor_data
from robot import Robot, image_message, wait_until
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.srv import AskScene

Reply = AskScene.Response
SECONDS = 8.0  # of asking
CAMERAS = {
    "cameras": ["wide", "files", "flaky"],
    "camera.wide.topic": "wide/image",
    "camera.files.topic": "files/image/compressed",
    "camera.files.compressed": True,
    "camera.flaky.topic": "flaky/image",
}
SIZES = {"wide": (1080, 1920), "files": (240, 320), "flaky": (120, 160)}
SHADES = {"wide": 40, "files": 120, "flaky": 200}  # grey level by which a camera is known


class Cameras:
    """Publishes from three cameras; the one named flaky stops by turns."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=arguments)
            for arguments in [("wide", 1 / 30), ("files", 0.1), ("flaky", 0.1)]
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, name: str, period: float) -> None:
        kind, topic = (
            (CompressedImage, f"{name}/image/compressed")
            if name == "files"
            else (Image, f"{name}/image")
        )
        publisher = self._robot.other.create_publisher(kind, topic, qos_profile_sensor_data)
        pixels = np.full((*SIZES[name], 3), SHADES[name], np.uint8)
        message = self._message(name, pixels)
        begun = time.monotonic()
        while not self._ended.wait(period):
            if name == "flaky" and (time.monotonic() - begun) % 4.0 > 2.0:
                continue
            message.header.stamp = self._robot.stamp()
            publisher.publish(message)

    @staticmethod
    def _message(name: str, pixels: np.ndarray) -> Any:
        if name != "files":
            return image_message(pixels, name)
        _, data = cv2.imencode(".jpg", pixels)
        return CompressedImage(header=Header(frame_id=name), format="jpeg", data=data.tobytes())

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def nanoseconds(stamp: Any) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def test_three_cameras_and_four_clients(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[str] = []
    ends: list[tuple[str, int]] = []
    shades: dict[int, int] = {}  # by the answer's thread-independent id: the scene's prefix
    see, ask = SceneEngine.see, SceneEngine.ask

    def seen(engine: SceneEngine, image: np.ndarray, **options: Any) -> Any:
        scene = see(engine, image, **options)
        shades[id(scene)] = round(float(image.mean()))
        return scene

    def asked(engine: SceneEngine, scene: Any, question: str, **options: Any) -> Any:
        """The question names its camera: the scene must be of that camera's image."""
        for name, shade in SHADES.items():
            if question.startswith(name) and abs(shades[id(scene)] - shade) > 3:
                wrong.append(f"{question}: the image's shade is {shades[id(scene)]}")
        return ask(engine, scene, question, **options)

    monkeypatch.setattr(SceneEngine, "see", seen)
    monkeypatch.setattr(SceneEngine, "ask", asked)
    robot.start(max_new_tokens=8, request_timeout=20.0, description_period=0.5, **CAMERAS)
    stopped = threading.Event()

    def check(kind: str, fields: dict, sent: int, reply: Any) -> None:
        ends.append((kind, reply.status))
        if reply.status == Reply.OK:
            if reply.header.frame_id != fields["camera"] or reply.camera != fields["camera"]:
                wrong.append(f"{kind}: asked {fields['camera']}, got {reply.header.frame_id}")
            if "not_before" in fields and nanoseconds(reply.header.stamp) < sent:
                wrong.append(f"{kind}: an image from before")
        elif not reply.message:
            wrong.append(f"{kind}: status {reply.status} without a sentence")

    def client(kind: str, make: Callable[[int], dict]) -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            camera = ("wide", "files", "flaky")[number % 3]
            now = robot.stamp()
            fields = {"camera": camera, "question": f"{camera} {number}?", **make(number)}
            if fields.pop("new", False):
                fields["not_before"] = now
            if kind in ("stream", "cancel"):
                stream = robot.stream(**fields)
                if kind == "cancel":
                    time.sleep(0.02 * (number % 5))
                    stream.cancel()
                status, reply = stream.end()
                if (status == GoalStatus.STATUS_SUCCEEDED) != (reply.status == Reply.OK):
                    wrong.append(f"{kind}: goal status {status}, reply {reply.status}")
            else:
                reply = robot.ask(**fields)
            check(kind, fields, nanoseconds(now), reply)

    cameras = Cameras(robot)
    try:
        wait_until(lambda: all(one.latest for one in robot.cameras.values()))
        robot.stream(question="files 0?", camera="files").end()  # its client is made by one thread
        threads = [
            threading.Thread(target=client, args=arguments)
            for arguments in [
                ("ask", lambda number: {"choices": ["yes", "no"] if number % 2 else []}),
                ("stream", lambda number: {"new": number % 2 == 0, "timeout": 10.0}),
                ("cancel", lambda number: {}),
                ("late", lambda number: {"timeout": 0.06, "max_image_age": 0.5}),
            ]
        ]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS)
        stopped.set()
        for thread in threads:
            thread.join()
    finally:
        stopped.set()
        cameras.stop()
    assert not wrong
    counts = {kind: Counter(s for k, s in ends if k == kind) for kind, _ in ends}
    assert set(counts) == {"ask", "stream", "cancel", "late"}
    assert counts["ask"][Reply.OK] > 0
    assert counts["stream"][Reply.OK] > 0
    assert set(counts["cancel"]) <= {Reply.OK, Reply.CANCELED}
    assert set(counts["late"]) <= {Reply.OK, Reply.TIMEOUT, Reply.STALE_IMAGE}
    assert robot.node.health.snapshot().waiting == 0
    counted = Counter(robot.node.health.snapshot().by_status)
    assert sum(counted.values()) == len(ends) + 1, "every request was counted, and none twice"
