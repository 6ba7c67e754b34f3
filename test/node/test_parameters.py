# SPDX-License-Identifier: Apache-2.0
"""Parameters: one list, one file, one page; ranges, types, and when each may change."""

from __future__ import annotations

import ast
import itertools
import re
from dataclasses import fields
from pathlib import Path

import pytest
import rclpy
import yaml
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from robot import Robot, image_message, make_image, wait_until

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.node.parameters.declarations import (
    CAMERA_PARAMETERS,
    FACT_PARAMETERS,
    PARAMETERS,
)
from svd_vlm_ros.node.parameters.settings import Settings, parse_options
from svd_vlm_ros.node.perception_node import PerceptionNode
from svd_vlm_ros.ros.parameters import Spec, When
from svd_vlm_ros.srv import AskScene

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "config" / "perception.yaml"
NAMES = {spec.name for spec in PARAMETERS}


def in_file() -> dict:
    return yaml.safe_load(FILE.read_text())["/**"]["ros__parameters"]


def test_the_file_has_every_parameter_with_its_default() -> None:
    values = in_file()
    cameras = values.pop("camera")
    assert values == {spec.name: spec.default for spec in PARAMETERS}
    assert cameras == {"camera": {"topic": "image", "compressed": False, "reliability": "auto"}}
    assert {spec.name for spec in CAMERA_PARAMETERS} == set(cameras["camera"])


def is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def test_the_file_comments_every_parameter() -> None:
    lines = FILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if match := re.fullmatch(r"\s+(\w+): .+", line):
            name = match[1]
            above = itertools.takewhile(is_comment, reversed(lines[:number]))
            comment = "".join(reversed(list(above)))
            assert comment, f"{name} has no comment"
            spec = next((spec for spec in PARAMETERS if spec.name == name), None)
            if spec is not None:
                when = "At start" if spec.when is When.START else spec.when.value
                assert f"# {when}" in comment, name
                if spec.low is not None:
                    assert f"[{spec.low:g}, {spec.high:.15g}]".replace("1e+09", "1000000000") in (
                        comment
                    ), name


def test_the_page_has_every_parameter_with_its_default() -> None:
    page = (ROOT / "docs" / "node.md").read_text()
    page = page.split("## Parameters\n")[1].split("\n## ")[0]
    documented = dict(re.findall(r"^\| `([a-z_.<>]+)` \| (.*?) \|", page, flags=re.MULTILINE))
    wanted = {spec.name: spec.default for spec in PARAMETERS}
    wanted |= {f"camera.<name>.{spec.name}": spec.default for spec in CAMERA_PARAMETERS}
    wanted |= {f"fact.<name>.{spec.name}": spec.default for spec in FACT_PARAMETERS}
    wanted["camera.<name>.topic"] = "image"
    for name, default in wanted.items():
        assert name in documented, f"docs/node.md lacks {name}"
        assert yaml.safe_load(documented[name].replace("`", "").split(" (")[0]) == default, name
    assert {name for name in documented if not name.startswith("~")} >= NAMES
    for spec in (*PARAMETERS, *CAMERA_PARAMETERS, *FACT_PARAMETERS):
        when = re.findall(
            rf"^\| `(?:[a-z]+\.<name>\.)?{spec.name}` \|.*?\|.*?\| (\w+) \|", page, re.M
        )
        assert spec.when.value in when, f"docs/node.md says of {spec.name}: {when}"


def test_the_launch_file_has_the_nodes_defaults() -> None:
    """Read without launch, which is not on PyPI; `test_launch.py` runs it if there is ROS."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "launch" / "perception.launch.py").read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "DeclareLaunchArgument":
            default = next(one.value for one in node.keywords if one.arg == "default_value")
            found[ast.literal_eval(node.args[0])] = getattr(default, "value", None)
    wanted = {spec.name: spec.default for spec in PARAMETERS if spec.name in found}
    assert len(wanted) > 5
    for name, default in wanted.items():
        assert yaml.safe_load(found[name]) == default, name


def test_every_parameter_reaches_the_settings() -> None:
    assert {field.name for field in fields(Settings)} == NAMES


@pytest.fixture(scope="module")
def robot(robot_of_module: Robot) -> Robot:
    robot_of_module.start()
    return robot_of_module


def test_declared_with_descriptors(robot: Robot) -> None:
    client = robot.other.create_client(DescribeParameters, "perception/describe_parameters")
    wait_until(client.service_is_ready)
    names = [*sorted(NAMES), *(f"camera.camera.{spec.name}" for spec in CAMERA_PARAMETERS)]
    found = robot.result(client.call_async(DescribeParameters.Request(names=names))).descriptors
    specs = {spec.name: spec for spec in PARAMETERS}
    for descriptor in found:
        assert descriptor.description, descriptor.name
        assert not descriptor.dynamic_typing
        spec = specs.get(descriptor.name)
        if spec is None:
            continue
        assert descriptor.read_only == (spec.when is When.START)
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        assert [(span.from_value, span.to_value) for span in ranges] == (
            [] if spec.low is None else [(spec.low, spec.high)]
        )
    declared = {name for name in robot.node._parameters if not name.startswith("qos_overrides.")}
    declared -= {"use_sim_time", "start_type_description_service"}
    assert declared == set(names)


def set_parameter(robot: Robot, name: str, value: object) -> tuple[bool, str]:
    """As `ros2 param set` does."""
    client = robot.other.create_client(SetParameters, "perception/set_parameters")
    wait_until(client.service_is_ready)
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    (result,) = robot.result(client.call_async(request)).results
    robot.other.destroy_client(client)
    return result.successful, result.reason


def test_live_changes_reach_the_next_request(robot: Robot) -> None:
    robot.show(image_message(make_image(1)))
    assert robot.ask().stats.visual_tokens_kept == 192
    assert set_parameter(robot, "visual_tokens", 16) == (True, "")
    assert robot.ask().stats.visual_tokens_kept == 16
    assert set_parameter(robot, "energy", 1) == (True, ""), "a whole number serves as a number"
    assert robot.ask().stats.visual_tokens_kept == 192, "token_cap"
    assert set_parameter(robot, "energy", 0.0) == (True, "")
    assert set_parameter(robot, "max_new_tokens", 3) == (True, "")
    assert robot.ask().stats.answer_tokens <= 3
    assert set_parameter(robot, "max_question_length", 5) == (True, "")
    assert robot.ask(question="longer").status == AskScene.Response.BAD_REQUEST
    assert set_parameter(robot, "max_question_length", 2000) == (True, "")
    assert set_parameter(robot, "max_image_pixels", 100) == (True, "")
    robot.show(image_message(make_image(2)))
    assert "max_image_pixels" in robot.ask().message
    assert set_parameter(robot, "max_image_pixels", 50_000_000) == (True, "")
    assert robot.ask().status == AskScene.Response.OK


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("model", "scout", "not active"),
        ("precision", "int4", "not active"),
        ("cameras", ["other"], "not active"),
        ("camera.camera.topic", "elsewhere", "not active"),
        ("selector_options", ["fast"], "name=value"),
        ("selector_options", ["rank=banana"], "has no option 'rank'"),
        ("selector", "nobodys", "There is no selector 'nobodys'"),
        ("selector", "trim", "svd-vlm download"),
        ("selector", "cdpruner", "svd-vlm download"),
        ("fact.door.question", "is it open?", "add 'door' to facts first"),
        ("fact.door.colour", "red", "a fact has question, choices, camera"),
        ("camera.left.topic", "left", "add 'left' to cameras first"),
        ("max_new_token", 3, "did you mean max_new_tokens?"),
        ("nonsense", 3, "There is no parameter nonsense"),
        ("autostart", False, "read-only"),
        ("visual_tokens", 0, "Min: 1, Max: 65535"),
        ("energy", 1.5, "Min: 0.0, Max: 1.0"),
        ("max_new_tokens", 5000, "Min: 1, Max: 1024"),
        ("queue_size", "many", "Wrong parameter type"),
    ],
)
def test_refused_changes(robot: Robot, name: str, value: object, named: str) -> None:
    done, reason = set_parameter(robot, name, value)
    assert not done
    assert named in reason


@pytest.mark.parametrize("selector", ["fastv", "pyramiddrop", "sparsevlm", "atp"])
def test_a_selector_that_the_budget_does_not_allow_is_refused(robot: Robot, selector: str) -> None:
    """And as little a budget that the selector in use does not allow."""
    assert set_parameter(robot, "visual_tokens", 1) == (True, "")
    done, reason = set_parameter(robot, "selector", selector)
    assert not done, reason
    assert robot.node.settings.selector == "svd-cover"
    assert set_parameter(robot, "visual_tokens", 576) == (True, "")
    assert set_parameter(robot, "selector", selector) == (True, "")
    assert not set_parameter(robot, "visual_tokens", 1)[0]
    assert set_parameter(robot, "selector", "svd-cover") == (True, "")
    assert set_parameter(robot, "visual_tokens", 192) == (True, "")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"precision": "int3"}, "fp32, bf16, fp16, int8, int4"),
        ({"aspect": "stretch"}, "pad, crop"),
        ({"visual_tokens": "many"}, "whole number"),
        ({"visual_tokens": 6.5}, "whole number"),
        ({"queue_size": 0}, "between 1 and 1000"),
        ({"cameras": ["1st"]}, "begins with a letter"),
        ({"cameras": ["a", "a"]}, "twice"),
        ({"cameras": ["front"], "camera.camera.topic": "x"}, "cameras names only front"),
        ({"camera.left.topic": "x"}, "add 'left' there"),
        ({"fact.door.question": "x"}, "facts does not name 'door'"),
        ({"facts": ["1st"]}, "begins with a letter"),
    ],
)
def test_impossible_values_at_the_start(ros_domain: int, given: dict, named: str) -> None:
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    # Of its own: the end of one of two nodes of one name takes the other out of the ROS graph.
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    try:
        with pytest.raises(UserError, match=re.escape(named)):
            PerceptionNode(context=context, parameter_overrides=overrides)
    finally:
        rclpy.shutdown(context=context)


def test_whole_numbers_serve_as_numbers() -> None:
    assert Spec("x", 2.0, "", low=0.0, high=9.0).convert(3) == 3.0
    with pytest.raises(UserError):
        Spec("x", 2, "").convert(True)


def test_options_of_a_selector() -> None:
    options = parse_options(["relevance=words", "layer = 3", "merge=True", "clip=a/b"])
    assert options == {"relevance": "words", "layer": 3, "merge": True, "clip": "a/b"}
    assert parse_options(["centre=false", "warm_start= true"]) == {
        "centre": False,
        "warm_start": True,
    }


def test_the_page_has_every_topic_service_and_action(robot: Robot) -> None:
    """And names none that the node does not have; what every lifecycle node has is left out."""
    page = (ROOT / "docs" / "node.md").read_text()
    rows = re.findall(r"^\| (service|action|published|subscribed) \| `([^`]+)` \|", page, re.M)
    documented = {(kind, name.removeprefix("/")) for kind, name in rows if kind != "subscribed"}
    mine, place, goals = ("perception", "/"), robot.other, "/_action/send_goal"

    def had() -> set[tuple[str, str]]:
        services = place.get_service_names_and_types_by_node(*mine)
        found = {
            "service": services,
            "action": [(n.removesuffix(goals), _) for n, _ in services if n.endswith(goals)],
            "published": place.get_publisher_names_and_types_by_node(*mine),
        }
        return {
            (kind, name.replace("/perception/", "~/" if kind == "published" else "/perception/"))
            for kind, names in found.items()
            for name, _ in names
            if not re.search(r"_action/|/parameter|/[gs]et_|/list_|/describe_|/change_state", name)
            and not re.search(r"rosout|transition_event|/clock|type_description", name)
        }

    def plain() -> set[tuple[str, str]]:
        return {(kind, name.removeprefix("/")) for kind, name in had()}

    wait_until(lambda: documented <= plain())  # until the graph knows all of it
    assert plain() == documented
