# SPDX-License-Identifier: Apache-2.0
"""Humble's rclpy has no callbacks before and after parameters are set: the node does without."""

from __future__ import annotations

import pytest
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter
from robot import Robot, image_message, make_image, wait_until

MISSING = ("add_pre_set_parameters_callback", "add_post_set_parameters_callback")


@pytest.fixture
def robot_on_humble(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> Robot:
    for name in MISSING:
        monkeypatch.delattr(Node, name, raising=False)
    robot.start(max_new_tokens=4)
    assert not any(hasattr(robot.node, name) for name in MISSING)
    return robot


def test_parameters_are_adapted_checked_and_obeyed(robot_on_humble: Robot) -> None:
    robot = robot_on_humble
    robot.show(image_message(make_image(1)))
    client = robot.other.create_client(SetParameters, "perception/set_parameters")
    wait_until(client.service_is_ready)

    def set_parameter(name: str, value: object) -> tuple[bool, str]:
        message = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[message])
        (result,) = robot.result(client.call_async(request)).results
        return result.successful, result.reason

    assert set_parameter("visual_tokens", 16) == (True, "")
    assert robot.ask().stats.visual_tokens_kept == 16
    assert set_parameter("energy", 1) == (True, ""), "a whole number serves as a number"
    assert robot.ask().stats.visual_tokens_kept == 192
    good, reason = set_parameter("selector", "nonsense")
    assert not good
    assert "There is no selector" in reason
    assert set_parameter("facts", ["door"]) == (True, ""), "declares what the fact needs"
    assert set_parameter("fact.door.question", "is the door open?") == (True, "")
    wait_until(lambda: [fact.name for fact in robot.node.settings.facts] == ["door"])


def test_all_or_none(robot_on_humble: Robot) -> None:
    robot = robot_on_humble
    name = "perception/set_parameters_atomically"
    client = robot.other.create_client(SetParametersAtomically, name)
    wait_until(client.service_is_ready)

    def set_both(tokens: int, selector: str) -> bool:
        both = (Parameter("visual_tokens", value=tokens), Parameter("selector", value=selector))
        messages = [parameter.to_parameter_msg() for parameter in both]
        request = SetParametersAtomically.Request(parameters=messages)
        return robot.result(client.call_async(request)).result.successful

    assert not set_both(32, "nonsense")
    assert robot.node.settings.visual_tokens == 192
    assert set_both(32, "svd")
    assert (robot.node.settings.visual_tokens, robot.node.settings.selector) == (32, "svd")
