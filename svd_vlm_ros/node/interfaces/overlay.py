# SPDX-License-Identifier: Apache-2.0
"""The topic `~/overlay`: the image of each answer, its kept tokens bright, with the answer below.

Nothing is made while nobody subscribes: the inference thread then pays for one look at the number
of subscribers. Else it hands over references, and a thread of its own converts, draws and sends;
of answers that come faster than that, the newest is drawn.
"""

from __future__ import annotations

import array
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from svd_vlm_ros.node.cameras.conversion import to_rgb
from svd_vlm_ros.overlay import Box, draw_overlay

if TYPE_CHECKING:
    from svd_vlm_ros.engine import Answer, Scene
    from svd_vlm_ros.node.cameras.frames import Frame
    from svd_vlm_ros.node.inference.questions import Question

TOPIC = "~/overlay"
QOS = QoSProfile(depth=1)  # reliable, as RViz asks by default; the newest counts
MAX_WIDTH = 1280  # a wider image is made smaller: it is to be looked at, over a network as well
_DESCRIPTION = "(description)"
_CLOSE_WITHIN = 1.0  # s that `close` waits for an image that is being drawn


@dataclass(frozen=True)
class _Seen:
    """What is drawn: an image's message, the boxes in its pixels, and the words."""

    message: Any
    kept: list[Box]
    question: str
    answer: str


class Overlay:
    """Publishes what the model saw, for those who look. `offer` may be called by any thread."""

    def __init__(self, publisher: Any, max_pixels: Callable[[], int], logger: Any) -> None:
        self._publisher = publisher
        self._max_pixels = max_pixels
        self._logger = logger
        self._condition = threading.Condition()
        self._next: _Seen | None = None
        self._ended = False
        self._thread: threading.Thread | None = None  # from the first image that somebody wants
        self.drawn = 0

    @property
    def wanted(self) -> bool:
        """Whether anybody subscribes."""
        return bool(self._publisher.get_subscription_count())

    def offer(self, question: Question, frame: Frame, scene: Scene, answer: Answer) -> None:
        """Have an answer drawn, if somebody looks. Returns at once and never raises."""
        try:
            if self.wanted:
                self._put(question, frame, scene, answer)
        except Exception:
            self._complain()

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._ended = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_WITHIN)

    def _put(self, question: Question, frame: Frame, scene: Scene, answer: Answer) -> None:
        selection = getattr(answer, "selection", None) or scene.selection
        kept = [] if selection is None else [scene.patch_box(i) for i in selection.indices.tolist()]
        asked = question.prompt if question.prompt and not question.describe else _DESCRIPTION
        with self._condition:
            if self._ended:
                return
            self._next = _Seen(frame.message, kept, asked, answer.text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="overlay", daemon=True)
                self._thread.start()
            self._condition.notify()

    def _run(self) -> None:
        while (seen := self._wait()) is not None:
            try:
                self._send(seen)
            except Exception:  # an image that cannot be drawn costs nobody an answer
                self._complain()

    def _wait(self) -> _Seen | None:
        with self._condition:
            while self._next is None and not self._ended:
                self._condition.wait()
            seen, self._next = self._next, None
            return None if self._ended else seen

    def _send(self, seen: _Seen) -> None:
        message = draw(seen.message, seen.kept, seen.question, seen.answer, self._max_pixels())
        if self._publisher.is_activated:
            self._publisher.publish(message)
            self.drawn += 1

    def _complain(self) -> None:
        self._logger.warning(
            f"The overlay could not be drawn: {traceback.format_exc()}", throttle_duration_sec=60.0
        )


def draw(message: Any, kept: list[Box], question: str, answer: str, max_pixels: int) -> Image:
    """The overlay as sensor_msgs/Image (rgb8) with the image's own header.

    `kept` in pixels of the image. Raises `UserError` if the image cannot be read.
    """
    image = to_rgb(message, max_pixels, allow_damaged=True)  # it was answered
    height, width = image.shape[:2]
    if width > MAX_WIDTH:
        factor = MAX_WIDTH / width
        size = (MAX_WIDTH, max(1, round(height * factor)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        kept = [(x0 * factor, y0 * factor, x1 * factor, y1 * factor) for x0, y0, x1, y1 in kept]
    drawn = draw_overlay(image, kept, question, answer)
    return Image(
        header=message.header,
        height=drawn.shape[0],
        width=drawn.shape[1],
        encoding="rgb8",
        step=drawn.shape[1] * 3,
        data=array.array("B", drawn.tobytes()),
    )
