# SPDX-License-Identifier: Apache-2.0
"""What the node pays for a camera that nobody asks about: 1920x1080 rgb8 at 30 Hz by default.

    python benchmark/image_callback.py --seconds 20

A publisher, and one after the other two subscribers, are processes of their own:

    bare   rclpy alone: a node with a subscription of the same QoS and an empty callback
    node   `perception`, active, with the model random:tiny; no question, no description

Both rows show rclpy's own costs, which take the message out of the middleware; the difference is
ours. `in callback` is the time within the callback, `allocated` what it allocates at most (a second
run under tracemalloc). "same object" is yes if the image kept is the very message that rclpy
handed over.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

from svd_vlm_ros.cpu import cpu_name

ROLES = ("bare", "node")
SETTLE = 3.0  # s before measuring begins
RGB = 3  # bytes a pixel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long each role is measured"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--role", choices=(*ROLES, "publisher"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "publisher":
        publish(options)
    elif options.role:
        print(json.dumps(measure(options)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Run publisher and subscribers, print the table."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    profile = Path(__file__).resolve().parents[1] / "config" / "fastdds_large_pictures.xml"
    for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(variable, str(profile))
    own = [sys.executable, __file__, *sys.argv[1:]]
    publisher = subprocess.Popen([*own, "--role", "publisher"])
    try:
        rows = {}
        for role in ROLES:
            done = subprocess.run([*own, "--role", role], stdout=subprocess.PIPE, check=True)
            rows[role] = json.loads(done.stdout.splitlines()[-1])
    finally:
        publisher.terminate()
        publisher.wait()
    about = {
        "picture": f"{options.width}x{options.height} rgb8 at {options.rate:g} Hz",
        "machine": f"{os.cpu_count()} CPUs, {cpu_name()}, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
    if options.json:
        print(json.dumps({**about, "rows": rows}, indent=2))
        return
    print(f"{about['picture']}; {about['machine']}; load {about['load']:.1f}; {about['date']}\n")
    print("| | images/s | in callback, median | 99 % | allocated | same object | CPU of one core |")
    print("|---|---|---|---|---|---|---|")
    for role, row in rows.items():
        print(
            f"| {role} | {row['rate']:.1f} | {row['median_us']:.1f} µs | {row['p99_us']:.1f} µs | "
            f"{row['allocated_bytes']} B | {'yes' if row['same_object'] else 'no'} | "
            f"{row['cpu']:.1%} |"
        )


def publish(options: argparse.Namespace) -> None:
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "image", QoSProfile(depth=1))
    message = Image(
        width=options.width,
        height=options.height,
        encoding="rgb8",
        step=RGB * options.width,
        data=array.array("B", os.urandom(RGB * options.width * options.height)),
    )

    def send() -> None:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)

    node.create_timer(1.0 / options.rate, send)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


class Meter:
    """Wraps a subscription's callback: how long it takes, what it allocates."""

    def __init__(self, callback: Any) -> None:
        self.durations: list[float] = []
        self.allocated = 0
        self.last: Any = None
        self._callback = callback

    def __call__(self, message: Any) -> None:
        self.last = message
        if tracemalloc.is_tracing():
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            self._callback(message)
            self.allocated = max(self.allocated, tracemalloc.get_traced_memory()[1] - before)
            return
        begun = time.perf_counter()
        self._callback(message)
        self.durations.append(time.perf_counter() - begun)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One subscriber in this process."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    from svd_vlm_ros.node.cameras.subscriptions import quality_of_service

    rclpy.init()
    if options.role == "bare":
        node = rclpy.create_node("bare")
        subscription = node.create_subscription(
            Image, "image", lambda message: None, quality_of_service(False)
        )
        executor = SingleThreadedExecutor()
        executor.add_node(node)
    else:
        node, executor = active_node()
        (subscription,) = (each for each in node.subscriptions if each.topic_name == "/image")
    meter = subscription.callback = Meter(subscription.callback)
    spin(executor, SETTLE)
    meter.durations.clear()
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = spin(executor, options.seconds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    durations = sorted(meter.durations)
    kept = options.role == "node" and latest(node) is meter.last
    tracemalloc.start()
    spin(executor, SETTLE)
    result = {
        "rate": len(durations) / seconds,
        "median_us": 1e6 * statistics.median(durations),
        "p99_us": 1e6 * durations[int(0.99 * len(durations))],
        "allocated_bytes": meter.allocated,
        "same_object": kept or options.role == "bare",
        "cpu": cpu / seconds,
    }
    if options.role == "node":
        node.close()
    return result


def latest(node: Any) -> Any:
    """The message that the node keeps of its camera."""
    return node.configured.cameras["camera"].latest.message


def active_node() -> tuple[Any, Any]:
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter

    from svd_vlm_ros.node.perception_node import PerceptionNode

    values = {
        "model": "random:tiny",
        "precision": "fp32",
        "device": "cpu",
        "description_period": 0.0,
    }
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = PerceptionNode(parameter_overrides=overrides)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while node.active is None:
        executor.spin_once(timeout_sec=0.1)
        if node.fatal:
            sys.exit(node.fatal)
    return node, executor


def spin(executor: Any, seconds: float) -> float:
    """Spin for so long; the seconds that it really took."""
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        executor.spin_once(timeout_sec=begun + seconds - now)
    return now - begun


if __name__ == "__main__":
    main()
