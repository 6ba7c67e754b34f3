# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declared, checked, and read into `Settings`.

`parameter_list` says what there is. Each camera named in `cameras` has its own parameters
`camera.<name>.*`, and each standing question named in `facts` its own `fact.<name>.*`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rclpy.parameter import Parameter

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.facts import MAX_FACTS, Fact, check_fact, check_name
from svd_vlm_ros.node.parameter_list import (
    CAMERA_PARAMETERS,
    DEFAULT_CAMERA,
    FACT_PARAMETERS,
    PARAMETERS,
)
from svd_vlm_ros.node.parameter_spec import Spec, When
from svd_vlm_ros.node.settings import CameraSettings, Settings, parse_options

if TYPE_CHECKING:
    from rclpy.node import Node

_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_GROUPS = {"camera": CAMERA_PARAMETERS, "fact": FACT_PARAMETERS}
_OF_GROUP = re.compile(r"(camera|fact)\.(\w+)\.(\w+)")


def declare(node: Node) -> None:
    """Declare all parameters with the values given at the start. Raises `UserError`."""
    given = _given(node)
    for spec in PARAMETERS:
        _declare(node, spec, given)
    declare_named(node)


def declare_named(node: Node) -> None:
    """Declare what the named cameras and facts need and was not declared. Raises `UserError`."""
    given = _given(node)
    cameras = node.get_parameter("cameras").value
    _check_camera_names(cameras, given)
    facts = _named(node.get_parameter("facts").value)
    _check_fact_names(facts, given)
    for group, names in (("camera", cameras), ("fact", facts)):
        for name in names:
            for spec in _GROUPS[group]:
                if not node.has_parameter(f"{group}.{name}.{spec.name}"):
                    _declare(node, _of(group, name, spec), given)


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
    """The parameters' present values; a fact without a question is left out.

    Raises:
        UserError: a camera has no topic, or a fact is about a camera that there is not.
    """
    values = {spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS}
    names = values.pop("cameras")
    _check_camera_names(names, {})
    cameras = []
    for name in names:
        values_of = _values_of(node, "camera", name)
        if not values_of["topic"]:
            raise UserError(f"Camera '{name}' has no topic: set the parameter camera.{name}.topic.")
        cameras.append(CameraSettings(name, **values_of))
    facts = []
    for name in _named(values.pop("facts")):
        asked = _values_of(node, "fact", name)
        if asked["camera"] not in ("", *names):
            raise UserError(
                f"Parameter fact.{name}.camera is '{asked['camera'][:60]}': choose one of "
                f"{', '.join(names)}, or leave it empty for the first."
            )
        if asked["question"].strip():
            facts.append(
                check_fact(Fact(name, asked["question"], tuple(asked["choices"]), asked["camera"]))
            )
    values["selector_options"] = tuple(_named(values["selector_options"]))
    return Settings(cameras=tuple(cameras), facts=tuple(facts), **values)


def why_undeclared(node: Node, names: Iterable[str]) -> str:
    """Why a parameter that is to be set does not exist, in one sentence; "": all exist."""
    for name in names:
        if node.has_parameter(name):
            continue
        match = _OF_GROUP.fullmatch(name)
        if match:
            group = f"{match[1]}s"
            named = ", ".join(_named(node.get_parameter(group).value)) or "none"
            if not any(spec.name == match[3] for spec in _GROUPS[match[1]]):
                parts = ", ".join(spec.name for spec in _GROUPS[match[1]])
                return f"There is no parameter {name}: a {match[1]} has {parts}."
            return (
                f"Parameter {name} is of a {match[1]} that the parameter {group} does not name "
                f"({named} so far): add '{match[2]}' to {group} first."
            )
        close = difflib.get_close_matches(name, [spec.name for spec in PARAMETERS], n=1)
        hint = f"did you mean {close[0]}?" if close else "'ros2 param list' shows those there are."
        return f"There is no parameter {name[:60]}: {hint}"
    return ""


def silent_facts(node: Node) -> list[str]:
    """Names of the facts that have no question."""
    names = _named(node.get_parameter("facts").value)
    return [name for name in names if not _values_of(node, "fact", name)["question"].strip()]


def adapted(parameters: list[Parameter]) -> list[Parameter]:
    """Parameters as they are meant where YAML and `ros2 param set` know no better.

    A 5 sets a number with a fraction, and an empty list, which carries no type, a list of texts.
    """
    kinds = {spec.name: type(spec.default) for spec in PARAMETERS}
    return [_adapted(parameter, kinds.get(parameter.name)) for parameter in parameters]


def check_change(parameters: Iterable[Parameter], active: bool) -> None:
    """Raise `UserError` where a change is out of range or comes while the node cannot follow it."""
    specs = {spec.name: spec for spec in PARAMETERS}
    for parameter in parameters:
        spec = specs.get(parameter.name)
        if spec is None and (match := _OF_GROUP.fullmatch(parameter.name)):
            found = [one for one in _GROUPS[match[1]] if one.name == match[3]]
            spec = _of(match[1], match[2], found[0]) if found else None
        if spec is None:
            continue
        value = spec.convert(parameter.value)
        if spec.when is When.CONFIGURE and active:
            raise UserError(
                f"Parameter {spec.name} can be set only while the node is not active: deactivate "
                "it before, and activate it afterwards."
            )
        if spec.name == "cameras":
            _check_camera_names(value, {})
        elif spec.name == "facts":
            _check_fact_names(_named(value), {})
        elif spec.name == "selector_options":
            parse_options(_named(value))
        elif match := re.fullmatch(r"fact\.(\w+)\.(\w+)", spec.name):
            _check_fact_part(match[1], match[2], value)


def _given(node: Node) -> Mapping[str, Parameter]:
    """Values from the command line and parameter files; rclpy has no public name for them."""
    return getattr(node, "_parameter_overrides", {})


def _declare(node: Node, spec: Spec, given: Mapping[str, Parameter]) -> None:
    value = spec.default
    if spec.name in given:
        (parameter,) = adapted([given[spec.name]])
        value = spec.convert(parameter.value)
    node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)


def _adapted(parameter: Parameter, kind: type | None) -> Parameter:
    if kind is float and parameter.type_ is Parameter.Type.INTEGER:
        return Parameter(parameter.name, Parameter.Type.DOUBLE, float(parameter.value))
    if kind is list and parameter.type_ is not Parameter.Type.STRING and not parameter.value:
        return Parameter(parameter.name, Parameter.Type.STRING_ARRAY, [""])
    return parameter


def _of(group: str, name: str, spec: Spec) -> Spec:
    """The parameter of one camera or fact."""
    topic = group == "camera" and spec.name == "topic"
    default = "image" if topic and name == DEFAULT_CAMERA else spec.default
    return dataclasses.replace(spec, name=f"{group}.{name}.{spec.name}", default=default)


def _values_of(node: Node, group: str, name: str) -> dict[str, Any]:
    return {
        spec.name: node.get_parameter(f"{group}.{name}.{spec.name}").value
        for spec in _GROUPS[group]
    }


def _named(values: Iterable[str]) -> list[str]:
    """A list of texts without the empty ones: ROS cannot carry a list that is empty itself."""
    return [value.strip() for value in values if value.strip()]


def _check_fact_part(name: str, part: str, value: Any) -> None:
    """One parameter of a fact by itself; the question may be empty for a while."""
    question = value if part == "question" and value.strip() else "?"
    choices = tuple(value) if part == "choices" else ("yes", "no")
    check_fact(Fact(name, question, choices))


def _check_fact_names(names: list[str], given: Mapping[str, Parameter]) -> None:
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
