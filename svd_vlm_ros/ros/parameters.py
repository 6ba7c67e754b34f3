# SPDX-License-Identifier: Apache-2.0
"""One parameter: what it is, how ROS shows it, and how a value of it is checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from svd_vlm_ros.errors import UserError

_TYPES = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list of texts",
}


class When(Enum):
    """When a parameter may be set, and so when it takes effect."""

    START = "start"  # read-only
    CONFIGURE = "configure"  # while the node is not active
    LIVE = "live"  # at any time; the next request obeys it


@dataclass(frozen=True)
class Spec:
    """One parameter; its default's type is its own, `low` and `high` are inclusive."""

    name: str
    default: Any
    text: str
    when: When = When.LIVE
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        found = ParameterDescriptor(description=self.text, read_only=self.when is When.START)
        constraints = [f"one of: {', '.join(self.choices)}"] if self.choices else []
        if self.when is When.CONFIGURE:
            constraints.append("settable while the node is not active")
        found.additional_constraints = "; ".join(constraints)
        if self.low is not None and self.high is not None:
            if isinstance(self.default, int):
                found.integer_range = [
                    IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)
                ]
            else:
                found.floating_point_range = [
                    FloatingPointRange(from_value=self.low, to_value=self.high)
                ]
        return found

    def convert(self, value: Any) -> Any:
        """The value in the parameter's type; 2 serves as 2.0. Raises `UserError`."""
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if kind is list and value is not None and not isinstance(value, (str, bytes)):
            value = list(value)
        if type(value) is not kind or (
            kind is list and not all(isinstance(item, str) for item in value)
        ):
            raise UserError(f"Parameter {self.name} is {value!r}: it must be {_TYPES[kind]}.")
        if self.choices and value not in self.choices:
            raise UserError(
                f"Parameter {self.name} is '{value}': choose one of {', '.join(self.choices)}."
            )
        if self.low is not None and self.high is not None and not self.low <= value <= self.high:
            raise UserError(
                f"Parameter {self.name} is {value:g}: it must be between {self.low:g} and "
                f"{self.high:g}."
            )
        return value
