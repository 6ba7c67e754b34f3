# SPDX-License-Identifier: Apache-2.0
"""What is odd around the node: stamps ahead of the clock, clocks that stand still, a namesake."""

from __future__ import annotations

import re
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile
from robot import Robot, image_message, make_image, wait_until
from rosgraph_msgs.msg import Clock

from svd_vlm_ros.srv import AskScene

Response = AskScene.Response
HOUR = 3600
AGE = 0.5  # s, the oldest image that the node uses
SOON = 20.0  # s; a bound against waiting for ever


def stale(robot: Robot) -> Any:
    reply = robot.ask()
    assert reply.status in (Response.OK, Response.STALE_IMAGE), reply.message
    return reply if reply.status == Response.STALE_IMAGE else None


def test_a_stamp_ahead_of_the_clock_grows_old(robot: Robot) -> None:
    robot.start(max_image_age=AGE)
    now = robot.stamp()
    message = image_message(make_image(1))
    message.header.stamp = Time(sec=now.sec + HOUR, nanosec=now.nanosec)
    robot.show(message)
    reply = wait_until(lambda: stale(robot), SOON)
    assert re.search(r"s old by its arrival \(its stamp was 3[56]\d\d\.\d s ahead", reply.message)


def test_a_stamp_ahead_of_the_clock_is_not_from_after_a_movement(robot: Robot) -> None:
    robot.start()
    now = robot.stamp()
    message = image_message(make_image(1))
    message.header.stamp = Time(sec=now.sec + HOUR, nanosec=now.nanosec)
    robot.show(message)
    assert robot.ask().status == Response.OK
    reply = robot.ask(not_before=robot.stamp(), timeout=0.5)
    assert reply.status == Response.STALE_IMAGE, "it arrived before the movement"


def clock_warnings(robot: Robot) -> list:
    found: list = []

    def look(array: Any) -> None:
        found.extend(
            s.message
            for s in array.status
            if s.name.endswith(": clock") and s.level == DiagnosticStatus.WARN
        )

    robot.other.create_subscription(DiagnosticArray, "/diagnostics", look, 10)
    return found


def test_simulated_time_without_a_clock(robot: Robot) -> None:
    robot.start(max_image_age=AGE, use_sim_time=True)
    found = clock_warnings(robot)
    robot.show(image_message(make_image(1)))
    wait_until(lambda: stale(robot), SOON)
    wait_until(lambda: found, SOON)
    assert "nobody publishes /clock" in found[0]


def test_simulated_time_that_stands_still(robot: Robot) -> None:
    """As a bag that is paused."""
    robot.start(max_image_age=AGE, use_sim_time=True)
    found = clock_warnings(robot)
    clock = robot.publisher("/clock", Clock, QoSProfile(depth=1))

    def moved() -> bool:
        clock.publish(Clock(clock=rclpy.time.Time(seconds=1000).to_msg()))
        return robot.node.get_clock().now().nanoseconds == 1000 * 10**9

    wait_until(moved)
    message = image_message(make_image(1))
    message.header.stamp = rclpy.time.Time(seconds=1000).to_msg()
    robot.show(message)
    wait_until(lambda: stale(robot), SOON)
    wait_until(lambda: [each for each in found if "stands still" in each], SOON)


def test_two_nodes_of_one_name_are_reported(robot: Robot) -> None:
    robot.start(wait=False, autostart=False)
    found: list = []

    def look(array: Any) -> None:
        found.extend(s.message for s in array.status if s.level == DiagnosticStatus.ERROR)

    robot.other.create_subscription(DiagnosticArray, "/diagnostics", look, 10)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=robot.context.get_domain_id())
    second = rclpy.create_node("perception", context=context)
    wait_until(lambda: [each for each in found if "2 nodes named /perception" in each], SOON)
    second.destroy_node()
    rclpy.shutdown(context=context)
