# SPDX-License-Identifier: Apache-2.0
"""The scenes that were made of frames, kept for further questions on the same frame."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images.messages import DamagedError
from svd_vlm_ros.node.cameras.conversion import to_rgb
from svd_vlm_ros.node.inference.replies import RequestError, Stats, Status

if TYPE_CHECKING:
    import numpy as np

    from svd_vlm_ros.engine import Answer, Scene, SceneEngine
    from svd_vlm_ros.node.cameras.frames import Frame
    from svd_vlm_ros.node.parameters.settings import Settings


@dataclass(frozen=True, eq=False)
class SeenFrame:
    """A scene for an answer: made for it, in `convert_seconds` and the scene's own, or `reused`."""

    frame: Frame
    scene: Scene
    reused: bool = False
    convert_seconds: float = 0.0


class SceneCache:
    """The last scene of each camera, found again only for the very same message and key.

    The key is whatever else a scene depends on: selector, system prompt and token budget. At most
    one scene a camera is kept, since each holds the language model's cache of its image in device
    memory (0.5 MB a token for a 7B model in 16 bits).

    Attributes:
        made, reused: how many scenes had to be made, and how many were found again.
        damaged: by camera, how many of the images that were read are damaged.
    """

    def __init__(self) -> None:
        self.made = self.reused = 0
        self._scenes: dict[str, tuple[Frame, Hashable, Scene]] = {}
        self._damaged: dict[str, Any] = {}  # the last damaged message of each camera
        self.damaged: Counter[str] = Counter()

    def clear(self) -> None:
        """Let all scenes go."""
        self._scenes.clear()

    def see(
        self,
        engine: SceneEngine,
        camera: str,
        frame: Frame,
        budget: int | float,
        settings: Settings,
        image: np.ndarray | None = None,
    ) -> SeenFrame:
        """A scene of this frame, made if none is kept. `image`: the frame's RGB, if known.

        Raises:
            RequestError: NO_IMAGE if the image cannot be read.
        """
        key = (
            engine.info.selector,
            engine.info.system_prompt,
            budget,
            settings.allow_damaged_images,
        )
        kept = self._scenes.get(camera)
        if kept is not None and kept[0].message is frame.message and kept[1] == key:
            self.reused += 1
            return SeenFrame(frame, kept[2], reused=True)
        self._scenes.pop(camera, None)  # before the next one is made: two may not fit
        begun = time.monotonic()
        if image is None:
            image = self.read(camera, frame, settings)
        converted = time.monotonic()
        try:
            scene = engine.see(image, visual_tokens=budget)
        except UserError as error:
            raise RequestError(Status.NO_IMAGE, str(error)) from error
        self._scenes[camera] = frame, key, scene
        self.made += 1
        return SeenFrame(frame, scene, convert_seconds=converted - begun)

    def read(self, camera: str, frame: Frame, settings: Settings) -> np.ndarray:
        """The image as uint8 [H, W, 3], RGB. Raises `RequestError` NO_IMAGE if it has none."""
        message = frame.message
        try:
            return to_rgb(
                message, settings.max_image_pixels, allow_damaged=settings.allow_damaged_images
            )
        except UserError as error:
            advice = "check its driver"
            if isinstance(error, DamagedError):
                advice = "check its cable and bandwidth, or set the parameter allow_damaged_images"
                if self._damaged.get(camera) is not message:
                    self._damaged[camera] = message
                    self.damaged[camera] += 1
            raise RequestError(
                Status.NO_IMAGE,
                f"The newest image of camera '{camera}' cannot be read: {error}; {advice}.",
            ) from error


def answer_stats(
    engine: SceneEngine,
    seen: SeenFrame,
    answer: Answer,
    *,
    image_age: float,
    queued: float,
    waited: float,
) -> Stats:
    """What an answer took. `queued`: seconds until its work began, `waited`: until it was asked."""
    scene, times = seen.scene, answer.timings
    made = None if seen.reused else scene.timings
    kept = scene.tokens_kept
    if scene.selection is None and answer.selection is not None:  # it chose tokens for itself
        kept = len(answer.selection.indices)
    return Stats(
        model=engine.info.model,
        precision=engine.info.precision,
        selector=engine.info.selector,
        visual_tokens_kept=kept,
        visual_tokens_total=scene.tokens_total,
        prompt_tokens=answer.prompt_tokens,
        answer_tokens=answer.answer_tokens,
        image_age=image_age,
        queue_seconds=queued,
        encode_seconds=seen.convert_seconds + (made.preprocess + made.encode if made else 0.0),
        select_seconds=times.select + times.project + (made.select + made.project if made else 0.0),
        prefill_seconds=times.prefill + (made.prefill if made else 0.0),
        decode_seconds=times.decode,
        time_to_first_token=waited + times.first_token,
        scene_reused=seen.reused,
        peak_device_memory=engine.peak_memory_bytes(),
    )
