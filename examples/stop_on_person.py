# SPDX-License-Identifier: Apache-2.0
"""Limit a robot's speed by the standing question "is there a person?"; silence means stop.

`cmd_vel_in` goes to `cmd_vel` no faster than the limit, which is on `speed_limit`, too (m/s). One
image with a person stops, several in a row without one let go again; if camera or node fall silent
the limit is 0. Not a safety device: a model can be wrong.
"""

import contextlib
import math
import time

import rclpy
from geometry_msgs.msg import Twist
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Float64

from svd_vlm_ros.msg import SceneDescription


class StopOnPerson(Node):
    """Hears `scene_description`, whose facts have the probabilities of each single image."""

    def __init__(self) -> None:
        super().__init__("stop_on_person")
        self.fact = self.declare_parameter("fact", "person").value  # its first choice: stop
        self.cruise = self.declare_parameter("cruise", 0.5).value  # m/s while nobody is ahead
        self.stop_above = self.declare_parameter("stop_above", 0.5).value  # probability
        self.go_below = self.declare_parameter("go_below", 0.2).value  # probability
        self.go_images = self.declare_parameter("go_images", 3).value  # in a row
        self.silence = self.declare_parameter("silence", 5.0).value  # s; over description_period
        self.clear_images, self.going, self.heard = 0, False, -math.inf
        self.limits = self.create_publisher(Float64, "speed_limit", 10)
        self.commands = self.create_publisher(Twist, "cmd_vel", 10)
        self.create_subscription(SceneDescription, "scene_description", self.see, 10)
        self.create_subscription(Twist, "cmd_vel_in", self.drive, 10)
        # The computer's own clock, as in `limit`: no /clock that stands still hides a silence.
        self.create_timer(0.1, self.tell, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def see(self, message: SceneDescription) -> None:
        """Take in one image; a repeated description says that the newest looks like this one."""
        age = (self.get_clock().now() - Time.from_msg(message.header.stamp)).nanoseconds * 1e-9
        for fact in message.facts:
            if fact.name == self.fact and (message.stats.scene_reused or age <= self.silence):
                self.limit()  # after a silence the count begins anew
                self.heard = time.monotonic()
                person = fact.probabilities[0]
                self.clear_images = self.clear_images + 1 if person < self.go_below else 0
                self.going &= person < self.stop_above
                self.going |= self.clear_images >= self.go_images

    def limit(self) -> float:
        """The speed that is allowed now, in m/s."""
        if time.monotonic() - self.heard > self.silence:
            self.clear_images, self.going = 0, False
        return self.cruise if self.going else 0.0

    def tell(self) -> None:
        """Publish the limit; at 0 also a command, should nobody send one to stop the robot."""
        self.limits.publish(Float64(data=self.limit()))
        if not self.going:
            self.commands.publish(Twist())

    def drive(self, command: Twist) -> None:
        """Pass a command on, slowed down as a whole, so that its curve stays the same."""
        speed, limit = math.hypot(command.linear.x, command.linear.y), self.limit()
        factor = min(1.0, limit / speed) if speed and limit else float(limit > 0)
        for part in (command.linear, command.angular):
            part.x, part.y, part.z = part.x * factor, part.y * factor, part.z * factor
        self.commands.publish(command)


if __name__ == "__main__":
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(StopOnPerson())
