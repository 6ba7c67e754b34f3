# SPDX-License-Identifier: Apache-2.0
"""What the node adds to the engine: time from question to reply, and processor time while idle.

    python benchmark/node_overhead.py

All over DDS, in a ROS domain of its own, between processes: the cameras, this client, and one after
the other

    bare   rclpy alone: a service of the same type and two subscriptions, with empty callbacks
    node   `perception` as its executable runs it, with no facts and no descriptions

**Overhead**, with one camera sending: the time of a question with choices from `call_async` to the
response in the client, less the time within `SceneEngine.see` and `.choose`, which are wrapped with
a clock. (The `stats` of the response would not do: they count converting the image to `encode`,
and leave out what the engine does between its stages.) So it holds both ways through DDS and rclpy,
with the client's own costs; check, queue and threads; and choosing and converting the image. It
does not hold a wait for the camera, since a request takes the newest image that is there, nor
what arriving images cost the engine. Each question finds an image that was not asked about
before, and comes at any moment between two images.

**Idle**, with two cameras sending and nobody asking: user and system time of the process (/proc, so
Linux alone) as a share of one core; `images/s` is what the node publishes in /diagnostics: how
many it receives of each camera.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svd_vlm_ros.cpu import cpu_name

SUBJECTS = (("bare", "raw"), ("node", "raw"), ("node", "compressed"))
CAMERAS = ("front", "rear")
SIZE = (640, 480)  # width, height
QUESTION, CHOICES = "is the path clear?", ["yes", "no"]
ENGINE = ("see", "choose")  # what a question with choices asks of it
WARM_UP = 5  # questions before those that count
SETTLE = 3.0  # s after cameras come or go: reliability follows them within two
START_WITHIN = 60.0  # s for a process to answer
OVERHEAD_BAR, IDLE_BAR = 5.0, 0.25  # ms at the median; of one core


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="scout")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--rate", type=float, default=30.0, help="images a second of a camera")
    parser.add_argument("--questions", type=int, default=60, help="asked of each camera")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long each idle row is measured"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--role", choices=("bare", "node", "camera"), help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=("raw", "compressed"), help=argparse.SUPPRESS)
    parser.add_argument("--names", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "camera":
        publish(options)
    elif options.role == "bare":
        serve_nothing()
    elif options.role == "node":
        serve()
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Run cameras and subjects, print the tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the other processes, too
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    profile = Path(__file__).resolve().parents[1] / "config" / "fastdds_large_pictures.xml"
    for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(variable, str(profile))
    load = os.getloadavg()[0]
    overhead: list[dict[str, Any]] = []
    idle: list[dict[str, Any]] = []
    for subject, kind in SUBJECTS:
        measure(options, subject, kind, overhead, idle)
    about = {
        "pictures": f"{SIZE[0]}x{SIZE[1]} at {options.rate:g} Hz",
        "model": f"{options.model} in {options.precision}",
        "machine": f"{os.cpu_count()} CPUs, {cpu_name()}, Python {platform.python_version()}",
        "load": load,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
    if options.json:
        print(json.dumps({**about, "overhead": overhead, "idle": idle}, indent=2))
        return
    print(
        f"{about['pictures']}; {about['model']}; {about['machine']}; load {load:.1f}; "
        f"{about['date']}\n"
    )
    print(
        f"| overhead of {options.questions} questions, bar {OVERHEAD_BAR:g} ms | median | 90 % | "
        "99 % | engine, median |"
    )
    print("|---|---|---|---|---|")
    for row in overhead:
        print(
            f"| {row['row']} | {row['median_ms']:.1f} ms | {row['p90_ms']:.1f} ms | "
            f"{row['p99_ms']:.1f} ms | {row['engine_ms']:.1f} ms |"
        )
    print(f"\n| idle, bar {IDLE_BAR:.0%} of a core | images/s | CPU of one core |")
    print("|---|---|---|")
    for row in idle:
        rate = "" if row["rate"] is None else f"{row['rate']:.1f}"
        print(f"| {row['row']} | {rate} | {row['cpu']:.1%} |")


def measure(
    options: argparse.Namespace,
    subject: str,
    kind: str,
    overhead: list[dict[str, Any]],
    idle: list[dict[str, Any]],
) -> None:
    """One process with cameras of one kind: its rows of both tables."""
    with running(subject_command(options, subject, kind)) as process, Client() as client:
        client.wait_until_served(process)
        if (subject, kind) == ("node", "raw"):
            idle.append(client.idle("node, no image comes", process.pid, options.seconds))
        with running(camera_command(options, kind, CAMERAS)):
            row = f"{subject}, {len(CAMERAS)} cameras, {kind}"
            idle.append(client.idle(row, process.pid, options.seconds))
        with running(camera_command(options, kind, CAMERAS[:1])):
            pause = (1.2 / options.rate, 2.2 / options.rate)
            spent = process.stdout if subject == "node" else None
            overhead.append(client.overhead(f"{subject}, {kind}", options.questions, pause, spent))


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen]:
    """A process for as long as the block runs."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
        if process.poll() is not None:
            sys.exit(f"A process ended by itself: {' '.join(command)}")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def camera_command(options: argparse.Namespace, kind: str, names: tuple[str, ...]) -> list[str]:
    own = [sys.executable, __file__, "--role", "camera", "--kind", kind]
    return [*own, "--rate", str(options.rate), "--names", *names]


def subject_command(options: argparse.Namespace, subject: str, kind: str) -> list[str]:
    if subject == "bare":
        return [sys.executable, __file__, "--role", "bare"]
    values = {
        "model": options.model,
        "precision": options.precision,
        "device": "cpu",
        "description_period": "0.0",
        "cameras": f"[{', '.join(CAMERAS)}]",
    }
    for name in CAMERAS:
        values[f"camera.{name}.topic"] = f"{name}/{kind}"
        values[f"camera.{name}.compressed"] = str(kind == "compressed").lower()
    given = [text for name, value in values.items() for text in ("-p", f"{name}:={value}")]
    own = [sys.executable, __file__, "--role", "node"]
    return [*own, "--ros-args", "--log-level", "error", *given]


class Client:
    """Asks, and listens to /diagnostics."""

    def __enter__(self) -> Client:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor

        from svd_vlm_ros.srv import AskScene

        self._type = AskScene
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("client", context=self._context)
        self._client = self._node.create_client(AskScene, "ask_scene")
        self._rates: list[float] = []
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _hear(self, message: Any) -> None:
        for status in message.status:
            self._rates += [float(v.value) for v in status.values if v.key == "rate (Hz)"]

    def _ask(self, seconds: float = START_WITHIN) -> tuple[float, Any]:
        """Seconds from call to response, and the response or None."""
        request = self._type.Request(question=QUESTION, choices=CHOICES)
        begun = time.perf_counter()
        future = self._client.call_async(request)
        self._executor.spin_until_future_complete(future, seconds)
        return time.perf_counter() - begun, future.result()

    def wait_until_served(self, process: subprocess.Popen) -> None:
        """Until a subject answers, even that it has no image yet."""
        end = time.monotonic() + START_WITHIN
        while time.monotonic() < end and process.poll() is None:
            # a first response can be lost if both sides have not found each other yet
            _, response = self._ask(1.0) if self._client.wait_for_service(0.2) else (0.0, None)
            if response is not None and response.status != self._type.Response.NOT_ACTIVE:
                return
            time.sleep(0.1)
        sys.exit("The service did not come.")

    def idle(self, row: str, pid: int, seconds: float) -> dict[str, Any]:
        """What the process uses when nobody asks."""
        self._spin(SETTLE)
        self._rates.clear()
        before = processor_seconds(pid)
        passed = self._spin(seconds)
        cpu = (processor_seconds(pid) - before) / passed
        rate = statistics.fmean(self._rates) if self._rates else None
        return {"row": row, "rate": rate, "cpu": cpu}

    def overhead(
        self, row: str, questions: int, pause: tuple[float, float], spent: Any
    ) -> dict[str, Any]:
        """The time of questions outside of the engine, whose seconds `spent` has; None: no engine.

        `pause`: seconds between two questions, at least and at most.
        """
        self._spin(SETTLE)
        rng = random.Random(0)
        overheads, engines = [], []
        while len(overheads) < WARM_UP + questions:
            self._spin(rng.uniform(*pause))
            seconds, response = self._ask()
            if response is None or response.status != response.OK:
                sys.exit(f"{row}: {response.message if response else 'no response'}")
            if response.stats.scene_reused:
                sys.exit(f"{row}: two questions found the same image; does the camera send?")
            engines.append(float(spent.readline()) if spent else 0.0)
            overheads.append(seconds - engines[-1])
        counted = sorted(1e3 * seconds for seconds in overheads[WARM_UP:])
        return {
            "row": row,
            "median_ms": statistics.median(counted),
            "p90_ms": counted[round(0.9 * (len(counted) - 1))],
            "p99_ms": counted[round(0.99 * (len(counted) - 1))],
            "engine_ms": 1e3 * statistics.median(engines[WARM_UP:]),
        }

    def _spin(self, seconds: float) -> float:
        """Spin for so long; the seconds that it really took."""
        begun = time.monotonic()
        while (now := time.monotonic()) < begun + seconds:
            self._executor.spin_once(timeout_sec=begun + seconds - now)
        return now - begun


def processor_seconds(pid: int) -> float:
    """User and system time of a process with all its threads."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()  # behind the name, from the third field on
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def publish(options: argparse.Namespace) -> None:
    """Cameras that see an image of scout's world."""
    import cv2
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import QoSProfile
    from std_msgs.msg import Header

    from svd_vlm_ros.scout.camera_node import compressed_message, image_message
    from svd_vlm_ros.scout.drive import drive
    from svd_vlm_ros.scout.render import render

    rclpy.init()
    node = rclpy.create_node("cameras")
    make = image_message if options.kind == "raw" else compressed_message
    image = make(cv2.resize(render(drive(10.0, 0)), SIZE), Header())
    for name in options.names:
        topic = f"{name}/{options.kind}"
        publisher = node.create_publisher(type(image), topic, QoSProfile(depth=1))

        def send(publisher: Any = publisher) -> None:
            image.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(image)

        node.create_timer(1.0 / options.rate, send)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


def serve() -> None:
    """The node; before each response it prints the seconds that the engine took for it."""
    from svd_vlm_ros.engine import SceneEngine
    from svd_vlm_ros.node.inference.answers import Answerer
    from svd_vlm_ros.node.perception import main

    spent: list[float] = []

    def timed(method: Any) -> Any:
        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            result = method(*arguments, **options)
            spent.append(time.perf_counter() - begun)
            return result

        return call

    def printing(method: Any) -> Any:
        @functools.wraps(method)
        def call(*arguments: Any) -> Any:
            spent.clear()
            replies = method(*arguments)
            print(sum(spent), flush=True)
            return replies

        return call

    for name in ENGINE:
        setattr(SceneEngine, name, timed(getattr(SceneEngine, name)))
    Answerer.answer = printing(Answerer.answer)  # type: ignore[method-assign]
    main()


def serve_nothing() -> None:
    """The least that a node with two cameras and the service can cost."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from sensor_msgs.msg import Image

    from svd_vlm_ros.node.cameras.subscriptions import quality_of_service
    from svd_vlm_ros.srv import AskScene

    # glibc maps and unmaps each large image until it has seen a larger block go. A process that
    # has loaded a model is past that.
    large = bytearray(1 << 24)
    del large
    rclpy.init()
    node = rclpy.create_node("bare")
    for name in CAMERAS:
        qos = quality_of_service(True)
        node.create_subscription(Image, f"{name}/raw", lambda message: None, qos)
    node.create_service(AskScene, "ask_scene", lambda request, response: response)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
