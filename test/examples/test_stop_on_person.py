# SPDX-License-Identifier: Apache-2.0
"""`stop_on_person.py`: drives while nobody is there, stops for a person, and in silence."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist, Vector3
from robot import Robot, image_message, wait_until
from std_msgs.msg import Float64

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import sample_scene

QUESTION = "is there a person?"
CRUISE = 0.4  # m/s
SILENCE = 8.0  # s: a description beside other work can take seconds
SEEDS = range(30_000_000, 30_000_100)  # scenes that training did not see
FACTS = {"facts": ["person"], "fact.person.question": QUESTION}


def certain_image(of_person: bool) -> np.ndarray:
    """A scene with a person, or without, about which scout is right and certain."""
    engine = SceneEngine.load("scout", precision="fp32")
    for scene in map(sample_scene, SEEDS):
        if any(thing.kind == "person" for thing in scene.objects) == of_person:
            image = render(scene)
            answer = engine.choose(engine.see(image), QUESTION, ["yes", "no"])
            if (answer.text == "yes") == of_person and answer.confidence > 0.95:
                return image
    pytest.fail("scout is certain of none of the scenes")


class Track:
    """The robot's camera, and what reaches its wheels."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.images = robot.publisher("image")
        self.wishes = robot.publisher("cmd_vel_in", Twist, 10)
        self.limits: list[float] = []
        self.speeds: list[tuple[float, float]] = []
        robot.other.create_subscription(
            Float64, "speed_limit", lambda message: self.limits.append(message.data), 10
        )
        robot.other.create_subscription(
            Twist,
            "cmd_vel",
            lambda message: self.speeds.append((message.linear.x, message.angular.z)),
            10,
        )

    def until(self, done: Callable[[], Any], image: np.ndarray | None) -> None:
        """Show the image, or none, and wish to drive at 1 m/s in a curve, until `done`."""
        self.limits.clear()
        self.speeds.clear()

        def step() -> Any:
            if image is not None:
                message = image_message(image, "front")
                message.header.stamp = self.robot.stamp()
                self.images.publish(message)
            self.wishes.publish(Twist(linear=Vector3(x=1.0), angular=Vector3(z=0.5)))
            time.sleep(0.05)
            return done()

        wait_until(step)

    def drives(self) -> bool:
        """Whether the newest command moves, no faster than the limit and in the same curve."""
        return bool(self.speeds) and self.speeds[-1] == pytest.approx((CRUISE, 0.5 * CRUISE))

    def stands(self) -> bool:
        return bool(self.speeds) and self.speeds[-1] == (0.0, 0.0) and self.limits[-1:] == [0.0]


@pytest.mark.timeout(300)
def test_it_stops_for_a_person_and_in_silence(
    scout: Callable[..., Robot],
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    """Of each image the first description is made anew; those that repeat it have its old stamp."""
    clear, person = certain_image(False), certain_image(True)
    robot = scout(description_period=0.1, max_new_tokens=2, **FACTS)
    track = Track(robot)
    parameters = {"cruise": CRUISE, "silence": SILENCE, "go_images": 2}
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    start("stop_on_person.py", "--ros-args", *words)

    track.until(track.stands, None)  # before the first image
    track.until(track.drives, clear)
    track.until(track.stands, person)
    track.until(track.drives, clear)
    track.until(track.stands, None)  # the camera falls silent
    track.until(track.drives, clear)
    begun = time.monotonic()  # beyond the time after which the first description is too old
    track.until(lambda: time.monotonic() > begun + 1.5 * SILENCE, clear)
    assert set(track.limits) == {CRUISE}
    robot.stop_node()  # the node falls silent, and the camera does not
    track.until(track.stands, clear)


def test_between_the_thresholds_nothing_changes(
    example: Callable[[str], Any], ros_domain: int
) -> None:
    """One image with a person stops it; several in a row, clearly without one, let it go."""
    import rclpy

    from svd_vlm_ros.msg import SceneDescription, SceneFact

    module = example("stop_on_person")
    rclpy.init()
    node = module.StopOnPerson()
    try:
        went = []
        for probability in (0.1, 0.1, 0.3, 0.1, 0.1, 0.1, 0.3, 0.49, 0.5, 0.3, 0.1, 0.1, 0.1):
            message = SceneDescription()
            message.header.stamp = node.get_clock().now().to_msg()
            message.facts = [
                SceneFact(name="other", probabilities=[0.99, 0.01]),
                SceneFact(name="person", probabilities=[probability, 1 - probability]),
            ]
            node.see(message)
            went.append(node.limit() > 0)
        assert went == [False] * 5 + [True] * 3 + [False] * 4 + [True]
        message.header.stamp.sec -= 60
        message.facts[1].probabilities = [0.9, 0.1]
        node.see(message)
        assert node.limit() > 0, "an image of a minute ago says nothing of now"
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
