# SPDX-License-Identifier: Apache-2.0
"""How the node says it is: levels, figures, the log, and memory that grows."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from robot import Robot, image_message, make_image, wait_until

from svd_vlm_ros.node.cameras import subscriptions as cameras
from svd_vlm_ros.node.health import diagnostics
from svd_vlm_ros.node.health import monitor as health
from svd_vlm_ros.node.health.diagnostics import ERROR, OK, STALE, WARN, CameraFigures
from svd_vlm_ros.node.health.figures import Snapshot
from svd_vlm_ros.node.health.memory import INTERVAL, MIB, WARM_UP, MemoryWatch, slope
from svd_vlm_ros.srv import AskScene


class Received:
    """What the node publishes on /diagnostics."""

    def __init__(self, robot: Robot) -> None:
        self.got: list[DiagnosticArray] = []
        robot.other.create_subscription(DiagnosticArray, "/diagnostics", self.got.append, 10)

    def status(self, name: str) -> DiagnosticStatus | None:
        found = [one for array in self.got[-1:] for one in array.status]
        return next((one for one in found if one.name == f"perception: {name}"), None)

    def facts(self, name: str) -> dict[str, str]:
        found = self.status(name)
        return {pair.key: pair.value for pair in found.values} if found else {}

    def wait_for(self, name: str, level: bytes) -> DiagnosticStatus:
        def found() -> DiagnosticStatus | None:
            status = self.status(name)
            return status if status is not None and status.level == level else None

        return wait_until(found)


def test_diagnostics_show_how_the_node_is(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "SILENT_SECONDS", 0.5)
    robot.start(wait=False)
    received = Received(robot)
    wait_until(lambda: received.facts("model").get("lifecycle state") == "active")
    assert received.wait_for("model", OK).hardware_id == "cpu"
    assert received.facts("model")["visual tokens"] == "192 of 576"
    assert "nobody publishes on /image" in received.wait_for("camera camera", ERROR).message
    wait_until(robot.client.service_is_ready)

    robot.show(image_message(make_image(1)))
    assert robot.ask().status == AskScene.Response.OK
    stale = received.wait_for("camera camera", STALE)
    assert "no image comes on /image though /other publishes there" in stale.message
    assert received.facts("camera camera")["image"] == "64x48 rgb8"
    assert int(received.facts("camera camera")["images"]) >= 1
    monkeypatch.setattr(cameras, "SILENT_SECONDS", 1000.0)
    received.wait_for("camera camera", OK)

    broken = image_message(make_image(2), encoding="32FC1")
    robot.show(broken)
    assert robot.ask().status == AskScene.Response.NO_IMAGE
    assert "'32FC1' holds plain numbers" in received.wait_for("camera camera", WARN).message
    requests = received.wait_for("requests", WARN)
    assert "cannot be read" in requests.message
    wait_until(lambda: received.facts("requests").get("requests NO_IMAGE") == "1")
    assert received.facts("requests")["requests OK"] == "1"
    assert received.status("latency").message.startswith("first token after")
    assert float(received.facts("latency")["prefill, median (ms)"]) > 0.0
    assert float(received.facts("process")["memory (MiB)"]) > 10.0
    robot.node.health.fault("The inference thread crashed.")
    assert received.wait_for("model", ERROR).message == "The inference thread crashed."


def test_free_memory_goes_back_to_the_system(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr(health, "trim", trimmed.set)
    monkeypatch.setattr(health, "TRIM", 0.0)
    robot.start()
    assert trimmed.wait(20.0)


def test_a_trouble_is_logged_once(robot: Robot, capfd: pytest.CaptureFixture[str]) -> None:
    robot.start()
    for _ in range(5):
        assert robot.ask().status == AskScene.Response.NO_IMAGE
    assert capfd.readouterr().err.count("has sent no image on /image yet") == 1


FIGURES = CameraFigures(
    name="front",
    topic="/front",
    compressed=False,
    reliable=False,
    received=100,
    lost=0,
    damaged=0,
    rate=30.0,
    loss_rate=0.0,
    arrived_ago=0.01,
    age=0.05,
    image="640x480 rgb8",
    oldest=10.0,
)


@pytest.mark.parametrize(
    ("change", "silence", "trouble", "level", "sentence"),
    [
        ({}, "", "", OK, "30.0 images/s of 640x480 rgb8"),
        ({"received": 0, "arrived_ago": None}, "", "", OK, "waiting for the first"),
        ({"received": 0, "arrived_ago": None}, "nobody publishes", "", ERROR, "nobody publishes"),
        ({}, "no image comes", "", STALE, "no image comes"),
        ({}, "", "cannot be read", WARN, "cannot be read"),
        ({"age": 11.0}, "", "", WARN, "11.0 s old by their stamp"),
        ({"age": 1e9}, "", "", WARN, "use_sim_time"),
        ({"age": 1e9, "oldest": 0.0}, "", "", OK, "images/s"),
        ({"age": -5.0}, "", "", WARN, "5.0 s ahead of ROS time"),
        ({"age": None}, "", "", OK, "images/s"),
        ({"loss_rate": 10.0}, "", "", WARN, "10.0 of 40.0 images/s are lost"),
    ],
)
def test_levels_of_a_camera(
    change: dict[str, Any], silence: str, trouble: str, level: bytes, sentence: str
) -> None:
    status = diagnostics.camera_status("n", replace(FIGURES, **change), silence, trouble)
    assert status.level == level
    assert sentence in status.message


def test_levels_of_the_rest() -> None:
    full = diagnostics.request_status("n", Snapshot(waiting=8, queue_size=8), "", "")
    assert (full.level, full.message) == (WARN, "8 of 8 places in the queue taken")
    assert diagnostics.request_status("n", Snapshot(queue_size=8), "", "old").level == OK
    assert diagnostics.model_status("n", "unconfigured", "no weights", "", {}).level == ERROR
    assert diagnostics.model_status("n", "inactive", "", "", {}).level == OK
    assert diagnostics.memory_status("n", 100.0, None, 0.0).level == OK
    assert diagnostics.memory_status("n", 100.0, 1000.0, 0.0).level == WARN
    assert "overloaded" in diagnostics.memory_status("n", 100.0, 0.0, 3.0).message
    latency = {"first_token": (0.1, 0.2, 0.3)}
    figures = Snapshot(latency=latency, scenes_made=1, scenes_reused=3, tokens_kept=192)
    values = {pair.key: pair.value for pair in diagnostics.latency_status("n", figures).values}
    assert values["first_token, 95 % (ms)"] == "200.0"
    assert values["reuse (%)"] == "75"


def test_the_slope_of_memory() -> None:
    watch = MemoryWatch(begun=0.0)
    for second in range(0, 3000, 5):
        grown = 500 * MIB if second < WARM_UP else 600 * MIB + second * MIB // 3600
        watch.look(float(second), (2 * grown, grown))
    assert watch.growth == pytest.approx(1.0, abs=0.1), "the warm-up is left out"
    early = MemoryWatch(begun=0.0)
    for second in range(int(WARM_UP + 20 * INTERVAL)):
        early.look(float(second), (100 * MIB, 100 * MIB))
    assert early.growth is None, "too short"
    assert slope([(0.0, 1.0)]) == 0.0
