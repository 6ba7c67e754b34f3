# SPDX-License-Identifier: Apache-2.0
"""RViz, Foxglove and SROS 2 files name what the node has: no more, and for SROS 2 no less."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.action import get_action_server_names_and_types_by_node
from robot import Robot, wait_until

CONFIG = Path(__file__).resolve().parents[2] / "config"
NODE = ("perception", "/")
# rclpy has these by itself, or not, as the distribution and the middleware have it.
EITHER = {"/parameter_events", "/perception/get_type_description", "/rosout"}


class Graph:
    """The names that the node has, by what it does with them."""

    def __init__(self, robot: Robot) -> None:
        node = robot.other

        def names(pairs: list[tuple[str, list[str]]]) -> dict[str, str]:
            return {name: kinds[0] for name, kinds in pairs if "/_action/" not in name}

        wait_until(lambda: names(node.get_service_names_and_types_by_node(*NODE)))
        self.published = names(node.get_publisher_names_and_types_by_node(*NODE))
        self.subscribed = names(node.get_subscriber_names_and_types_by_node(*NODE))
        self.services = names(node.get_service_names_and_types_by_node(*NODE))
        self.actions = names(get_action_server_names_and_types_by_node(node, *NODE))

    @property
    def topics(self) -> dict[str, str]:
        return {**self.published, **self.subscribed}


@pytest.fixture(scope="module")
def graph(robot_of_module: Robot) -> Graph:
    robot_of_module.start()
    return Graph(robot_of_module)


def rights(enclave: str, kind: str, verb: str) -> set[str]:
    """The full names that a policy allows."""
    root = ET.parse(CONFIG / "sros2_policy.xml").getroot()
    assert root.tag == "policy"
    (profile,) = root.findall(f"./enclaves/enclave[@path='{enclave}']/profiles/profile")
    namespace, node = profile.get("ns", ""), profile.get("node")
    found = set()
    for group in profile.findall(f"{kind}s[@{verb}='ALLOW']"):
        for name in group.findall(kind):
            # As sros2 does it: what follows the ~ as it is, a slash included.
            text = re.sub("^~", f"{namespace}{node}", name.text or "")
            found.add(text if text.startswith("/") else f"{namespace}{text}")
    return found


def test_the_policy_gives_the_node_the_least_rights(graph: Graph) -> None:
    assert rights("/perception", "topic", "publish") ^ set(graph.published) <= EITHER
    assert rights("/perception", "topic", "subscribe") ^ set(graph.subscribed) <= EITHER
    assert rights("/perception", "service", "reply") ^ set(graph.services) <= EITHER
    assert rights("/perception", "action", "execute") == set(graph.actions)
    assert not rights("/perception", "service", "request")
    assert not rights("/perception", "action", "call")


def test_a_client_may_ask_and_listen_only(graph: Graph) -> None:
    assert rights("/client", "service", "request") == {"/ask_scene"}
    assert rights("/client", "action", "call") == set(graph.actions) == {"/stream_answer"}
    assert rights("/client", "topic", "subscribe") <= set(graph.published)
    offered = rights("/client", "service", "reply")  # its own parameters, and no others
    assert {name.split("/")[1] for name in offered} == {"client", "_ros2cli_*"}
    assert rights("/client", "topic", "publish") == {"/parameter_events", "/rosout"}


def test_rviz_shows_camera_and_overlay(graph: Graph) -> None:
    config = yaml.safe_load((CONFIG / "perception.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    topics = {display["Topic"]["Value"] for display in displays}
    assert topics == {"/image", "/perception/overlay"}
    for topic in topics:
        assert graph.topics[topic] == "sensor_msgs/msg/Image"


def test_foxglove_shows_all_of_it(graph: Graph) -> None:
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    panels = layout["configById"]
    assert set(leaves(layout["layout"])) == set(panels), "each panel has its place"
    text = json.dumps(panels)
    named = set(re.findall(r'"(/[a-z_/]+)', text))
    assert named - {"/ask_scene"} <= set(graph.topics)
    assert panels["CallService!ask"]["serviceName"] in graph.services
    json.loads(panels["CallService!ask"]["requestPayload"])
    shown = ("/image", "/perception/overlay", "/scene_description", "/fact_changed", "/diagnostics")
    assert set(shown) <= named
    from svd_vlm_ros.msg import SceneDescription

    for path in re.findall(r'"/scene_description\.([a-z_.\[\]:]+)', text):
        field: Any = SceneDescription()
        for part in path.replace("[:]", "").split("."):
            assert hasattr(field, part) or isinstance(field, list), path
            field = getattr(field, part, None)


def leaves(place: Any) -> list[str]:
    if isinstance(place, str):
        return [place]
    return leaves(place["first"]) + leaves(place["second"])


def test_the_table_of_faults_names_tests_that_exist() -> None:
    tests = Path(__file__).resolve().parents[1]
    text = (tests.parent / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 15
    for module, test in named:
        texts = [path.read_text() for path in tests.glob(f"*/{module}")]
        assert any(f"def {test}(" in text for text in texts), f"{module}::{test}"
