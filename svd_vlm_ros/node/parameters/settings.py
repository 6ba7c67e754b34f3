# SPDX-License-Identifier: Apache-2.0
"""The values of the node's parameters as the rest of the node reads them. No ROS in it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.facts import Fact

AUTO = "auto"  # a camera's reliability that follows its publishers
MAX_NEW_TOKENS = 1024
MAX_SECONDS = 86_400.0  # longest timeout and image age that can be asked for; one day


@dataclass(frozen=True)
class Limits:
    """The settings that a request is measured with; seconds, tokens, characters."""

    cameras: tuple[str, ...]
    max_new_tokens: int
    max_image_age: float
    request_timeout: float
    max_question_length: int


@dataclass(frozen=True)
class CameraSettings:
    """One camera: its name, its topic as given, what it carries, and the QoS to ask for."""

    name: str
    topic: str
    compressed: bool = False
    reliability: str = AUTO


@dataclass(frozen=True)
class Settings:
    """The values of all parameters at one moment; names and units as in `PARAMETERS`."""

    model: str
    runtime: Literal["auto", "torch", "onnx"]
    precision: str
    device: str
    cpu_threads: int
    system_prompt: str
    aspect: str
    min_pixels: int
    max_pixels: int
    position_policy: Literal["auto", "contiguous", "original"]
    allow_random_model: bool
    load_timeout: float
    selector: str
    selector_options: tuple[str, ...]
    visual_tokens: int
    energy: float
    token_cap: int
    cameras: tuple[CameraSettings, ...]
    max_image_age: float
    max_image_pixels: int
    allow_damaged_images: bool
    max_new_tokens: int
    request_timeout: float
    max_question_length: int
    queue_size: int
    batch_size: int
    description_period: float
    description_prompt: str
    change_threshold: float
    change_refresh: float
    facts: tuple[Fact, ...]
    fact_frames: int
    autostart: bool

    @functools.cached_property
    def budget(self) -> int | float:
        """What the engine takes as `visual_tokens`: a number of tokens, or an energy in (0, 1]."""
        return self.energy if self.energy > 0.0 else self.visual_tokens

    @functools.cached_property
    def limits(self) -> Limits:
        """What requests are measured with."""
        return Limits(
            cameras=tuple(camera.name for camera in self.cameras),
            max_new_tokens=self.max_new_tokens,
            max_image_age=self.max_image_age,
            request_timeout=self.request_timeout,
            max_question_length=self.max_question_length,
        )

    @property
    def selection(self) -> tuple[str, dict[str, Any]]:
        """The selector's name and options. Raises `UserError` if an option has no `=`."""
        return self.selector, parse_options(self.selector_options)

    @property
    def model_key(self) -> tuple[object, ...]:
        """All that a loaded model depends on: if it differs, another one must be loaded."""
        return (
            self.model,
            self.runtime,
            self.precision,
            self.device,
            self.cpu_threads,
            self.aspect,
            self.min_pixels,
            self.max_pixels,
            self.position_policy,
        )

    def facts_of(self, camera: str) -> tuple[Fact, ...]:
        """The standing questions about a camera."""
        first = self.cameras[0].name
        return tuple(fact for fact in self.facts if (fact.camera or first) == camera)


TRUTHS = {"true": "True", "false": "False"}


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Options of a selector, each as `name=value`; numbers, true and false are read as such."""
    found = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UserError(
                f"Parameter selector_options has '{option[:60]}': write each option as name=value."
            )
        word = text.strip()
        try:
            # YAML's way to write them, too: as a text "false" would count as true.
            found[name.strip()] = ast.literal_eval(TRUTHS.get(word, word))
        except (ValueError, SyntaxError):
            found[name.strip()] = word
    return found
