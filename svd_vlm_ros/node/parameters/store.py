# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declared, checked, and read into `Settings`.

`parameter_list` says what there is, `parameter_rules` what values are possible. Each camera named
in `cameras` has its own parameters `camera.<name>.*`, and each standing question named in `facts`
its own `fact.<name>.*`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.facts import Fact, check_fact
from svd_vlm_ros.node.parameters.declarations import PARAMETERS
from svd_vlm_ros.node.parameters.rules import (
    GROUPS,
    OF_GROUP,
    adapted,
    check_camera_names,
    check_change,
    check_fact_camera,
    check_fact_names,
    check_value,
    named_of,
    spec_of,
)
from svd_vlm_ros.node.parameters.settings import CameraSettings, Settings
from svd_vlm_ros.ros.parameters import Spec

if TYPE_CHECKING:
    from rclpy.node import Node

    from svd_vlm_ros.ros.distributions import HookedNode


class Parameters:
    """The parameters of a node: declares them, and has their values.

    Declared when it is made; `watch` then lets changes be checked and obeyed. Raises `UserError` if
    one was given an impossible value.
    """

    def __init__(self, node: HookedNode) -> None:
        self._node = node
        self._logger: Any = node.get_logger()
        self._settings: Settings | None = None
        self._is_active: Callable[[], bool] = lambda: False
        self._is_configured: Callable[[], bool] = lambda: False
        self._check: Callable[[Mapping[str, Any]], None] = lambda values: None
        self._on_change: Callable[[set[str], Settings], None] = lambda names, settings: None
        given = _given(node)
        for spec in PARAMETERS:
            self._declare(spec, given)
        self._declare_named()
        for sentence in _unknown(node):
            self._logger.warning(sentence)

    def watch(
        self,
        is_active: Callable[[], bool],
        is_configured: Callable[[], bool],
        check: Callable[[Mapping[str, Any]], None],
        on_change: Callable[[set[str], Settings], None],
    ) -> None:
        """From now on a change is checked, and obeyed.

        `check(values)` raises `UserError` if it is impossible; `on_change(names, settings)` hears
        of it while the node is configured. `is_active()`: what only configuring obeys is refused.
        """
        self._is_active, self._is_configured = is_active, is_configured
        self._check, self._on_change = check, on_change
        self._node.add_parameter_hooks(adapted, self._checked, self._changed, self._why_undeclared)

    def current(self) -> Settings:
        """The values since the node was configured."""
        assert self._settings is not None
        return self._settings

    @property
    def if_read(self) -> Settings | None:
        """The same, None before the node was first configured."""
        return self._settings

    def read(self) -> Settings:
        """Declare what cameras and facts need, and take all values. Raises `UserError`."""
        self._declare_named()
        self._settings = self.values()
        return self._settings

    def values(self) -> Settings:
        """The parameters' present values; a fact without a question is left out.

        Raises:
            UserError: a camera has no topic, or a fact is about a camera that there is not.
        """
        node = self._node
        values = {spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS}
        names = values.pop("cameras")
        check_camera_names(names, {})
        cameras = []
        for name in names:
            values_of = self._values_of("camera", name)
            if not values_of["topic"]:
                raise UserError(
                    f"Camera '{name}' has no topic: set the parameter camera.{name}.topic."
                )
            cameras.append(CameraSettings(name, **values_of))
        facts = []
        for name in named_of(values.pop("facts")):
            fact = self._values_of("fact", name)
            check_fact_camera(name, fact["camera"], names)
            if fact["question"].strip():
                facts.append(
                    check_fact(Fact(name, fact["question"], tuple(fact["choices"]), fact["camera"]))
                )
        values["selector_options"] = tuple(named_of(values["selector_options"]))
        return Settings(cameras=tuple(cameras), facts=tuple(facts), **values)

    def silent_facts(self) -> list[str]:
        """Names of the facts that have no question."""
        names = named_of(self._node.get_parameter("facts").value)
        return [name for name in names if not self._values_of("fact", name)["question"].strip()]

    def value(self, name: str) -> Any:
        """One parameter's present value."""
        return self._node.get_parameter(name).value

    def set(self, changes: Sequence[Parameter]) -> None:
        """Change parameters by the node itself."""
        self._node.set_parameters(list(changes))

    # The hooks

    def _checked(self, changed: list[Parameter]) -> SetParametersResult:
        # A parameter that is being declared was checked before: it is no change.
        changed = [one for one in changed if self._node.has_parameter(one.name)]
        try:
            check_change(changed, self._is_active())
            self._check({parameter.name: parameter.value for parameter in changed})
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _changed(self, changed: list[Parameter]) -> None:
        names = {parameter.name for parameter in changed}
        if "facts" in names:
            self._declare_named()
        if not self._is_configured():
            return  # read when the node is configured
        try:
            settings = self.values()
        except UserError as error:  # e.g. another camera without a topic yet, while inactive
            self._logger.warning(str(error))
            return
        if settings == self._settings:
            return  # the node itself has set what holds already, or declares a parameter
        self._settings = settings
        self._on_change(names, settings)

    def _why_undeclared(self, names: Iterable[str]) -> str:
        """Why a parameter that is to be set does not exist, in one sentence; "": all exist."""
        node = self._node
        for name in names:
            if node.has_parameter(name):
                continue
            match = OF_GROUP.fullmatch(name)
            if match:
                group = f"{match[1]}s"
                named = ", ".join(named_of(node.get_parameter(group).value)) or "none"
                if not any(spec.name == match[3] for spec in GROUPS[match[1]]):
                    parts = ", ".join(spec.name for spec in GROUPS[match[1]])
                    return f"There is no parameter {name}: a {match[1]} has {parts}."
                return (
                    f"Parameter {name} is of a {match[1]} that the parameter {group} does not name "
                    f"({named} so far): add '{match[2]}' to {group} first."
                )
            close = difflib.get_close_matches(name, [spec.name for spec in PARAMETERS], n=1)
            hint = (
                f"did you mean {close[0]}?" if close else "'ros2 param list' shows those there are."
            )
            return f"There is no parameter {name[:60]}: {hint}"
        return ""

    # Declaring

    def _declare_named(self) -> None:
        """Declare what the named cameras and facts need and was not declared."""
        node, given = self._node, _given(self._node)
        cameras = node.get_parameter("cameras").value
        check_camera_names(cameras, given)
        facts = named_of(node.get_parameter("facts").value)
        check_fact_names(facts, given)
        for group, names in (("camera", cameras), ("fact", facts)):
            for name in names:
                for spec in GROUPS[group]:
                    if not node.has_parameter(f"{group}.{name}.{spec.name}"):
                        self._declare(spec_of(group, name, spec), given)

    def _declare(self, spec: Spec, given: Mapping[str, Parameter]) -> None:
        value = spec.default
        if spec.name in given:
            (parameter,) = adapted([given[spec.name]])
            value = check_value(spec, parameter.value)
        self._node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)

    def _values_of(self, group: str, name: str) -> dict[str, Any]:
        """The values of one camera or fact; what is just being declared has its default."""
        values = {}
        for part in GROUPS[group]:
            spec = spec_of(group, name, part)
            declared = self._node.has_parameter(spec.name)
            values[part.name] = self.value(spec.name) if declared else spec.default
        return values


def _given(node: Node) -> Mapping[str, Parameter]:
    """Values from the command line and parameter files; rclpy has no public name for them."""
    return getattr(node, "_parameter_overrides", {})


def _unknown(node: Node) -> list[str]:
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
