# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declared, checked, and read into one frozen value.

`parameter_list` says what there is. Each camera named in `cameras` has its own
parameters `camera.<name>.*`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rclpy.parameter import Parameter

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.parameter_list import (
    AUTO,
    CAMERA_PARAMETERS,
    DEFAULT_CAMERA,
    PARAMETERS,
    Spec,
    When,
)
from svd_vlm_ros.node.requests import Limits

if TYPE_CHECKING:
    from rclpy.node import Node

_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


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
    precision: str
    device: str
    cpu_threads: int
    system_prompt: str
    aspect: str
    allow_random_model: bool
    load_timeout: float
    selector: str
    visual_tokens: int
    energy: float
    token_cap: int
    cameras: tuple[CameraSettings, ...]
    max_image_age: float
    max_image_pixels: int
    max_new_tokens: int
    request_timeout: float
    max_question_length: int
    queue_size: int
    description_period: float
    description_prompt: str
    autostart: bool

    @property
    def budget(self) -> int | float:
        """What the engine takes as `visual_tokens`: a number of tokens, or an energy in (0, 1]."""
        return self.energy if self.energy > 0.0 else self.visual_tokens

    @property
    def limits(self) -> Limits:
        """What requests are measured with."""
        return Limits(
            cameras=tuple(camera.name for camera in self.cameras),
            max_new_tokens=self.max_new_tokens,
            max_image_age=self.max_image_age,
            request_timeout=self.request_timeout,
            max_question_length=self.max_question_length,
        )


def declare(node: Node) -> None:
    """Declare all parameters with the values given at the start. Raises `UserError`."""
    given = _given(node)
    for spec in PARAMETERS:
        _declare(node, spec, given)
    declare_cameras(node)


def declare_cameras(node: Node) -> None:
    """Declare what each camera of `cameras` needs and was not declared yet. Raises `UserError`."""
    given = _given(node)
    names = node.get_parameter("cameras").value
    _check_camera_names(names, given)
    for name in names:
        for spec in CAMERA_PARAMETERS:
            if not node.has_parameter(f"camera.{name}.{spec.name}"):
                _declare(node, _of_camera(spec, name), given)


def unknown_parameters(node: Node) -> list[str]:
    """Given parameters that look like a misspelt one of ours, each as a sentence."""
    known = [spec.name for spec in PARAMETERS]
    sentences = []
    for name in _given(node):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if close and not node.has_parameter(name):
            sentences.append(
                f"Parameter {name} is not known and has no effect: did you mean {close[0]}?"
            )
    return sentences


def read(node: Node) -> Settings:
    """The parameters' present values. Raises `UserError` where a camera has no topic."""
    values = {spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS}
    names = values.pop("cameras")
    _check_camera_names(names, {})
    cameras = []
    for name in names:
        values_of = {
            spec.name: node.get_parameter(f"camera.{name}.{spec.name}").value
            for spec in CAMERA_PARAMETERS
        }
        if not values_of["topic"]:
            raise UserError(f"Camera '{name}' has no topic: set the parameter camera.{name}.topic.")
        cameras.append(CameraSettings(name, **values_of))
    return Settings(cameras=tuple(cameras), **values)


def whole_numbers_to_numbers(parameters: list[Parameter]) -> list[Parameter]:
    """Let `ros2 param set ... 5` set a parameter whose type is a number with a fraction."""
    numbers = {spec.name for spec in PARAMETERS if type(spec.default) is float}
    return [
        Parameter(parameter.name, Parameter.Type.DOUBLE, float(parameter.value))
        if parameter.name in numbers and parameter.type_ is Parameter.Type.INTEGER
        else parameter
        for parameter in parameters
    ]


def check_change(parameters: Iterable[Parameter], unconfigured: bool) -> None:
    """Raise `UserError` where a change is out of range or comes while the node cannot follow it."""
    specs = {spec.name: spec for spec in PARAMETERS}
    for parameter in parameters:
        spec = specs.get(parameter.name)
        if spec is None and (
            match := re.fullmatch(r"camera\.(\w+)\.(topic|compressed|reliability)", parameter.name)
        ):
            spec = _of_camera(
                next(spec for spec in CAMERA_PARAMETERS if spec.name == match[2]), match[1]
            )
        if spec is None:
            continue
        value = spec.convert(parameter.value)
        if spec.name == "cameras":
            _check_camera_names(value, {})
        if spec.when is When.CONFIGURE and not unconfigured:
            raise UserError(
                f"Parameter {spec.name} can be set only while the node is unconfigured: take it "
                "through deactivate and cleanup before, and through configure and activate "
                "afterwards."
            )


def _given(node: Node) -> Mapping[str, Parameter]:
    """Values from the command line and parameter files; rclpy has no public name for them."""
    return getattr(node, "_parameter_overrides", {})


def _declare(node: Node, spec: Spec, given: Mapping[str, Parameter]) -> None:
    value = spec.default
    if spec.name in given:
        value = spec.convert(given[spec.name].value)
    node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)


def _of_camera(spec: Spec, camera: str) -> Spec:
    default = "image" if spec.name == "topic" and camera == DEFAULT_CAMERA else spec.default
    name = f"camera.{camera}.{spec.name}"
    return dataclasses.replace(spec, name=name, default=default)


def _check_camera_names(names: list[str], given: Mapping[str, Parameter]) -> None:
    if not names:
        raise UserError("Parameter cameras is empty: name at least one camera.")
    for name in names:
        if not _CAMERA_NAME.fullmatch(name):
            raise UserError(
                f"Parameter cameras names '{name[:60]}': a name begins with a letter and goes on "
                "with letters, digits and underscores."
            )
        if names.count(name) > 1:
            raise UserError(
                f"Parameter cameras names '{name}' twice: give each camera its own name."
            )
    for name in given:
        match = re.match(r"camera\.([^.]*)\.", name)
        if match and match[1] not in names:
            raise UserError(
                f"Parameter {name} is set, but cameras names only {', '.join(names)}: add "
                f"'{match[1]}' there, or remove it."
            )
