# SPDX-License-Identifier: Apache-2.0
"""Which values the node's parameters may have: what ranges and types alone do not say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rclpy.parameter import Parameter

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.facts import MAX_FACTS, YES_NO, Fact, check_fact, check_name
from svd_vlm_ros.node.parameters.declarations import (
    CAMERA_PARAMETERS,
    DEFAULT_CAMERA,
    FACT_PARAMETERS,
    PARAMETERS,
)
from svd_vlm_ros.node.parameters.settings import parse_options
from svd_vlm_ros.ros.parameters import Spec, When

GROUPS = {"camera": CAMERA_PARAMETERS, "fact": FACT_PARAMETERS}
OF_GROUP = re.compile(r"(camera|fact)\.(\w+)\.(\w+)")
_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def adapted(parameters: list[Parameter]) -> list[Parameter]:
    """Parameters as they are meant, since YAML and `ros2 param set` know no better.

    A 5 sets a number with a fraction, and an empty list, which carries no type, a list of texts.
    """
    kinds = {spec.name: type(spec.default) for spec in PARAMETERS}
    return [_adapted(parameter, kinds.get(parameter.name)) for parameter in parameters]


def check_change(parameters: Iterable[Parameter], active: bool) -> None:
    """Raise `UserError` if a change is out of range or comes while the node cannot follow it."""
    for parameter in parameters:
        spec = _spec(parameter.name)
        if spec is None:
            continue
        check_value(spec, parameter.value)
        if spec.when is When.CONFIGURE and active:
            raise UserError(
                f"Parameter {spec.name} can be set only while the node is not active: deactivate "
                "it before, and activate it afterwards."
            )


def check_value(spec: Spec, value: Any) -> Any:
    """The value in the parameter's type. Raises `UserError` if it is impossible."""
    value = spec.convert(value)
    if spec.name == "cameras":
        check_camera_names(value, {})
    elif spec.name == "facts":
        check_fact_names(named_of(value), {})
    elif spec.name == "selector_options":
        parse_options(named_of(value))
    elif (match := OF_GROUP.fullmatch(spec.name)) and match[1] == "fact":
        _check_fact_part(match[2], match[3], value)
    return value


def spec_of(group: str, name: str, spec: Spec) -> Spec:
    """The parameter of one camera or fact."""
    topic = group == "camera" and spec.name == "topic"
    default = "image" if topic and name == DEFAULT_CAMERA else spec.default
    return dataclasses.replace(spec, name=f"{group}.{name}.{spec.name}", default=default)


def named_of(values: Iterable[str]) -> list[str]:
    """A list of texts without the empty ones: ROS cannot carry a list that is empty itself."""
    return [value.strip() for value in values if value.strip()]


def check_fact_camera(fact: str, camera: str, cameras: Iterable[str]) -> None:
    """Raise `UserError` if a fact is about a camera that there is not."""
    if camera and camera not in cameras:
        raise UserError(
            f"Parameter fact.{fact}.camera is '{camera[:60]}': choose one of "
            f"{', '.join(cameras)}, or leave it empty for the first."
        )


def _check_fact_part(name: str, part: str, value: Any) -> None:
    """One parameter of a fact by itself; the question may be empty for a while."""
    question = value if part == "question" and value.strip() else "?"
    choices = tuple(value) if part == "choices" else YES_NO
    check_fact(Fact(name, question, choices))


def check_fact_names(names: list[str], given: Mapping[str, Parameter]) -> None:
    """Raise `UserError` if these are no names of facts, or parameters of others are `given`."""
    if len(names) > MAX_FACTS:
        raise UserError(f"Parameter facts names {len(names)} facts: {MAX_FACTS} are the most.")
    for name in names:
        check_name(name)
        if names.count(name) > 1:
            raise UserError(f"Parameter facts names '{name}' twice: give each fact its own name.")
    for parameter in given:
        match = re.match(r"fact\.([^.]*)\.", parameter)
        if match and match[1] not in names:
            raise UserError(
                f"Parameter {parameter} is set, but facts does not name '{match[1]}': add it "
                "there, or remove it."
            )


def check_camera_names(names: list[str], given: Mapping[str, Parameter]) -> None:
    """Raise `UserError` if these are no names of cameras, or parameters of others are `given`."""
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


def _spec(name: str) -> Spec | None:
    """The parameter of this full name."""
    if match := OF_GROUP.fullmatch(name):
        found = [
            spec_of(match[1], match[2], one) for one in GROUPS[match[1]] if one.name == match[3]
        ]
    else:
        found = [spec for spec in PARAMETERS if spec.name == name]
    return found[0] if found else None


def _adapted(parameter: Parameter, kind: type | None) -> Parameter:
    if kind is float and parameter.type_ is Parameter.Type.INTEGER:
        return Parameter(parameter.name, Parameter.Type.DOUBLE, float(parameter.value))
    if kind is list and parameter.type_ is not Parameter.Type.STRING and not parameter.value:
        return Parameter(parameter.name, Parameter.Type.STRING_ARRAY, [""])
    return parameter
