# SPDX-License-Identifier: Apache-2.0
"""The clients of `soak.py`: one asks, one streams, one cancels, one times out; and an operator.

Each request is checked: it ends, its header is that of an image of the camera that was asked, not
older than asked for, and the answer's probabilities are those of the very image that the header
names. A fact that is added while the node runs is published within `FACT_WITHIN`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import rclpy
from action_msgs.srv import CancelGoal
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from soak_common import (
    CAMERAS,
    IMAGES,
    SAVE_EVERY,
    image_of,
    percentile,
    read_frame_id,
    role,
    save,
    warm_up,
)

from svd_vlm_ros.action import StreamAnswer
from svd_vlm_ros.msg import FactChanged
from svd_vlm_ros.srv import AskScene

PATIENCE = 20.0  # s after a request's timeout until it counts as lost
QUESTION, CHOICES = "is the path clear?", ["yes", "no", "maybe"]
TOKENS = 192
NEAR = 5e-3  # between probabilities of the same image, computed alone or in a batch
NAMES = "OK NO_IMAGE STALE_IMAGE BAD_REQUEST BUSY TIMEOUT CANCELED NOT_ACTIVE ERROR"
STATUSES = {getattr(AskScene.Response, name): name for name in NAMES.split()}
SELECTOR = "svd-cover"  # the node's default; another one's probabilities are others
FACT_WITHIN = 15.0  # s: three periods of 1 s, and what the other faults take of the node's time
DYING = """
import os, rclpy
from svd_vlm_ros.srv import AskScene
rclpy.init()
client = rclpy.create_node("dying").create_client(AskScene, "ask_scene")
if client.wait_for_service(10.0):
    client.call_async(AskScene.Request(question="describe this", max_new_tokens=64))
os._exit(0)
"""
SHOWN = 10  # wrong things that the report shows


class Client:
    """Figures of one client."""

    def __init__(self) -> None:
        self.by_status: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.counts: Counter[str] = Counter()

    def figures(self) -> dict[str, Any]:
        ordered = sorted(self.seconds) or [0.0]
        return {
            "sent": self.counts["sent"],
            "answered": self.by_status["OK"],
            "lost": self.counts["lost"],
            "wrong_header": self.counts["wrong_header"],
            "wrong_picture": self.counts["wrong_picture"],
            "too_old": self.counts["too_old"],
            "facts_late": self.counts["facts_late"],
            "by_status": dict(self.by_status),
            "seconds": [percentile(ordered, share) for share in (0.5, 0.95, 0.99, 1.0)],
        }


class Clients:
    """The four clients and the operator, each a thread of its own, over one node."""

    def __init__(
        self, node: Any, executor: Any, options: dict[str, Any], stopped: threading.Event
    ) -> None:
        self._executor = executor
        self.each = {name: Client() for name in ("ask", "stream", "cancel", "time out")}
        self.faults: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._node, self._options, self._stopped = node, options, stopped
        self._warm = time.monotonic() + warm_up(options)
        # ROS gives a client room for 10 requests and replies: more at once are lost on its side.
        many = QoSProfile(depth=1000)
        self._service = node.create_client(AskScene, "ask_scene", qos_profile=many)
        self._action = ActionClient(node, StreamAnswer, "stream_answer")
        self._state = node.create_client(ChangeState, "perception/change_state")
        self._set = node.create_client(SetParameters, "perception/set_parameters")
        self._fact_came = threading.Event()
        latched = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(
            FactChanged, "fact_changed", lambda _: self._fact_came.set(), latched
        )
        self._wanted = reference(options)

    def wait(self, seconds: float) -> bool:
        """Wait for the first answer and the first goal's end.

        While two programs discover each other a call can get lost (docs/node.md), which is the
        middleware's doing: so the first ones are repeated, and are not counted.
        """
        end = time.monotonic() + seconds
        return self._repeat(self._first_answer, end) and self._repeat(self._first_goal, end)

    def _repeat(self, work: Callable[[], bool], end: float) -> bool:
        while time.monotonic() < end and not self._stopped.is_set():
            if work():
                return True
            time.sleep(0.5)
        return False

    def _first_answer(self) -> bool:
        if not self._service.wait_for_service(1.0):
            return False
        future = self._service.call_async(AskScene.Request(question=QUESTION))
        return finished(future, 10.0) and future.result().status == AskScene.Response.OK

    def _first_goal(self) -> bool:
        if not self._action.wait_for_server(1.0):
            return False
        goal = StreamAnswer.Goal(question=QUESTION, max_new_tokens=2, timeout=10.0)
        sent = self._on_executor(lambda: self._action.send_goal_async(goal))
        if not finished(sent, 5.0):
            return False
        handle = sent.result()
        if not finished(self._on_executor(handle.cancel_goal_async), 5.0):
            return False
        return finished(self._on_executor(handle.get_result_async), 15.0)

    def run(self) -> list[threading.Thread]:
        work = (self._ask, self._stream, self._cancel, self._time_out, self._operate)
        threads = [threading.Thread(target=self._loop, args=(each,)) for each in work]
        for thread in threads:
            thread.start()
        return threads

    def figures(self) -> dict[str, Any]:
        return {
            "each": {name: client.figures() for name, client in self.each.items()},
            "faults": dict(self.faults),
            "wrong": self.wrong,
        }

    def _loop(self, work: Any) -> None:
        number = 0
        while not self._stopped.is_set():
            work(number)
            number += 1
            self._stopped.wait(self._options["pause"])

    def _ask(self, number: int) -> None:
        camera = list(CAMERAS)[number % 3]
        request = AskScene.Request(
            question=QUESTION, camera=camera, choices=CHOICES, visual_tokens=TOKENS, timeout=10.0
        )
        if number % 3 == 0:
            request.not_before = self._node.get_clock().now().to_msg()
        elif number % 3 == 1:
            request.max_image_age = 2.0
        # Each of these makes some buffer of DDS larger for good, so they belong to the warm-up.
        if self._options["fault_every"] and number % 10 == 9 and time.monotonic() < self._warm:
            request.question, request.choices = "x" * 1_000_000, []
            self.faults["question of 1 MB"] += 1
        self._call("ask", request)

    def _time_out(self, number: int) -> None:
        request = AskScene.Request(
            question="describe this", camera="packed", max_new_tokens=64, timeout=0.05
        )
        self._call("time out", request)
        self._stopped.wait(0.3)

    def _call(self, name: str, request: AskScene.Request) -> None:
        client, begun = self.each[name], time.monotonic()
        client.counts["sent"] += 1
        future = self._service.call_async(request)
        if not finished(future, request.timeout + PATIENCE):
            self._lost(name)
            return
        client.seconds.append(time.monotonic() - begun)
        self._check(client, request, future.result())

    def _stream(self, number: int) -> None:
        self._goal("stream", "raw" if number % 2 else "packed", cancel=False)

    def _cancel(self, number: int) -> None:
        self._goal("cancel", "packed", cancel=True)
        self._stopped.wait(0.2)

    def _goal(self, name: str, camera: str, cancel: bool) -> None:
        client, begun, pieces = self.each[name], time.monotonic(), []
        goal = StreamAnswer.Goal(
            question="describe this", camera=camera, max_new_tokens=16, timeout=10.0
        )
        client.counts["sent"] += 1
        sent = self._on_executor(
            lambda: self._action.send_goal_async(
                goal, feedback_callback=lambda message: pieces.append(message.feedback.piece)
            )
        )
        if not finished(sent, PATIENCE):
            self._lost(name)
            return
        handle = sent.result()
        result = self._on_executor(handle.get_result_async)
        if cancel:
            self._stopped.wait(0.05)
            canceled = self._on_executor(handle.cancel_goal_async)
            if not finished(canceled, PATIENCE):
                self._lost(name)
                return
            assert isinstance(canceled.result(), CancelGoal.Response)
        if not finished(result, goal.timeout + PATIENCE):
            self._lost(name)
            return
        client.seconds.append(time.monotonic() - begun)
        response = result.result().result
        self._check(client, goal, response)

    def _on_executor(self, call: Callable[[], Any]) -> Any:
        """What the action client gives, on its executor's thread.

        It notes a request after sending it, and drops a response that another thread has taken
        before that.
        """
        task = self._executor.create_task(call)
        finished(task, PATIENCE)
        return task.result()

    def _lost(self, name: str) -> None:
        self.each[name].counts["lost"] += 1
        self._note(f"a request of '{name}' did not end")

    def _check(self, client: Client, request: Any, response: Any) -> None:
        client.by_status[STATUSES[response.status]] += 1
        if response.status != AskScene.Response.OK:
            if not response.message:
                self._note(f"{STATUSES[response.status]} without a sentence")
            return
        header = response.header
        stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
        try:
            camera, number, height, width, taken = read_frame_id(header.frame_id)
        except ValueError:
            camera, number, height, width, taken = "", 0, 0, 0, 0
        if camera != request.camera or taken != stamp or response.camera != request.camera:
            client.counts["wrong_header"] += 1
            self._note(f"asked {request.camera}, got the header {header.frame_id} at {stamp}")
            return
        before = request.not_before.sec * 10**9 + request.not_before.nanosec
        old = request.max_image_age and response.stats.image_age > request.max_image_age + 1e-3
        if stamp < before or old:
            client.counts["too_old"] += 1
            self._note(f"{(before - stamp) / 1e9:.3f} s too old: {header.frame_id}")
        wanted = self._wanted.get((camera, number, height, width))
        same = response.stats.selector == SELECTOR and list(request.choices) == CHOICES
        if same and wanted is not None:
            far = max(abs(a - b) for a, b in zip(wanted, response.probabilities, strict=True))
            if far > NEAR:
                client.counts["wrong_picture"] += 1
                self._note(f"{header.frame_id}: probabilities differ by {far:.4f}")

    def _note(self, sentence: str) -> None:
        if len(self.wrong) < SHOWN:
            self.wrong.append(sentence)

    def _operate(self, number: int) -> None:
        """Change parameters and lifecycle, add facts, flood the node, and die, by turns."""
        every = self._options["fault_every"]
        if not every or self._stopped.wait(1.3 * every):
            self._stopped.wait(0.5)
            return
        kind = number % 6
        if kind == 0:
            self._set_parameter("visual_tokens", 64 if number % 4 else TOKENS)
            self.faults["visual_tokens changed"] += 1
        elif kind == 2:
            for selector in ("grid", SELECTOR):
                self._set_parameter("selector", selector)
                self._stopped.wait(1.0)
            self.faults["selector switched"] += 1
        elif kind == 3:
            self._add_facts()
        elif kind == 4:
            self._die_in_mid_request()
        elif kind == 1:
            for change in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
                request = ChangeState.Request(transition=Transition(id=change))
                finished(self._state.call_async(request), PATIENCE)
            self.faults["deactivated and activated"] += 1
        else:
            self._flood()

    def _set_parameter(self, name: str, value: Any) -> None:
        parameter = Parameter(name, value=value).to_parameter_msg()
        done = self._set.call_async(SetParameters.Request(parameters=[parameter]))
        finished(done, PATIENCE)

    def _add_facts(self) -> None:
        """A fact that is added live is published within `FACT_WITHIN`, whatever else is asked."""
        self._fact_came.clear()
        self._set_parameter("facts", ["soak"])
        self._set_parameter("fact.soak.question", QUESTION)
        if not self._fact_came.wait(FACT_WITHIN) and not self._stopped.is_set():
            self.each["ask"].counts["facts_late"] += 1
            self._note(f"a fact that was added live was not published within {FACT_WITHIN:g} s")
        self._set_parameter("facts", [""])
        self.faults["fact added"] += 1

    def _die_in_mid_request(self) -> None:
        """A client that sends a question and is gone before its answer."""
        subprocess.run([sys.executable, "-c", DYING], check=False, timeout=PATIENCE)
        self.faults["client died in mid-request"] += 1

    def _flood(self) -> None:
        """Two hundred requests at once: each must end."""
        client = self.each["ask"]
        request = AskScene.Request(question=QUESTION, camera="packed", timeout=5.0)
        futures = [self._service.call_async(request) for _ in range(200)]
        client.counts["sent"] += len(futures)
        end = time.monotonic() + request.timeout + PATIENCE
        for future in futures:
            if finished(future, max(end - time.monotonic(), 0.0)):
                self._check(client, request, future.result())
            else:
                self._lost("ask")
        self.faults["200 requests at once"] += 1


def finished(future: Any, seconds: float) -> bool:
    """Wait for a future of another thread's executor."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    return done.wait(seconds)


def reference(options: dict[str, Any]) -> dict[tuple[str, int, int, int], tuple[float, ...]]:
    """What a second engine answers about each image; models of gigabytes are not loaded twice."""
    if options["model"] not in ("random:tiny", "scout"):
        return {}
    from soak_cameras import FICKLE_SIZES, PACKED_SIZE

    from svd_vlm_ros.engine import SceneEngine

    engine = SceneEngine.load(options["model"], precision=options["precision"], device="cpu")
    sizes = {"raw": ((options["height"], options["width"]),), "packed": (PACKED_SIZE,)}
    sizes["fickle"] = FICKLE_SIZES
    found = {}
    for camera in CAMERAS:
        for number in range(IMAGES):
            for height, width in sizes[camera]:
                scene = engine.see(image_of(camera, number, height, width), visual_tokens=TOKENS)
                answer = engine.choose(scene, QUESTION, CHOICES)
                found[camera, number, height, width] = answer.probabilities
    engine.close()
    return found


def main() -> None:
    folder, options, stopped = role()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("soak_clients")
    executor = SingleThreadedExecutor()
    clients = Clients(node, executor, options, stopped)
    executor.add_node(node)
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            executor.spin_once(timeout_sec=0.1)

    spinner = threading.Thread(target=spin)
    spinner.start()
    answered = clients.wait(300.0)
    threads = clients.run() if answered else []
    end = time.monotonic() + 60.0 * options["minutes"]
    while answered and time.monotonic() < end and not stopped.wait(SAVE_EVERY):
        save(folder, "clients", clients.figures())
    stopped.set()
    for thread in threads:
        thread.join()
    save(folder, "clients", clients.figures())
    over.set()
    spinner.join()
    executor.shutdown()
    rclpy.try_shutdown()
    raise SystemExit(0 if answered else "no answer came within 300 s")


if __name__ == "__main__":
    main()
