# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm demo`: how questions are chosen and judged, and the real processes over DDS."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from svd_vlm_ros.cli import domain
from svd_vlm_ros.cli.demo import KINDS, _ask, next_question, node_parameters, plain, true_answer
from svd_vlm_ros.cli.options import Precision
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.questions import Question, standard_questions

has_ros = importlib.util.find_spec("rclpy") and importlib.util.find_spec("svd_vlm_ros.srv")
needs_ros = pytest.mark.skipif(not has_ros, reason="needs rclpy and the compiled interfaces")


def test_the_kind_that_was_asked_least_often_is_next() -> None:
    offered = [Question(kind, f"{kind}?", "yes") for kind in ("sky", "path", "ground", "describe")]
    done: list[str] = []
    for _ in range(4):
        done.append(next_question(offered, done).kind)
    assert done == ["path", "ground", "sky", "path"]
    assert {"path", "ground", "sky"} <= set(KINDS)


def test_the_world_answers_its_own_questions() -> None:
    for t in (1.0, 17.5, 33.0):
        scene = drive(t, seed=3)
        for question in standard_questions(scene):
            assert true_answer(scene, question.text) == question.answer


def test_a_question_that_a_scene_leaves_open_has_no_truth() -> None:
    scene = drive(5.0)
    assert true_answer(scene, "where is the elephant?") is None
    kinds = [thing.kind for thing in scene.objects]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice:
        assert true_answer(scene, f"where is the {twice}?") is None


def test_what_makes_no_difference_in_an_answer() -> None:
    assert plain(" A red car. ") == "a red car"
    assert plain("yes") != plain("no")


def test_a_budget_becomes_the_nodes_parameter() -> None:
    in_tokens = node_parameters(Precision.INT4, 16)
    assert in_tokens == {"model": "scout", "precision": "int4", "visual_tokens": 16}
    assert node_parameters(Precision.BF16, 0.9)["energy"] == 0.9


def test_a_domain_in_use_is_passed_over() -> None:
    with domain.reserved_domain(start=40) as first:
        start = domain.DOMAINS.index(first)
        with domain.reserved_domain(start) as second:  # nobody is in the first one as yet
            assert second != first
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 7400 + 250 * first))
        assert not domain.is_free(first)
        with domain.reserved_domain(start) as second:
            assert second != first
    assert domain.is_free(first)


def test_the_graph_is_closed_to_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    graph = domain.private_graph(42)
    assert graph["ROS_DOMAIN_ID"] == "42"
    assert graph["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert domain.private_graph(42)["ROS_LOCALHOST_ONLY"] == "1"


class Graph:
    """A node that answers at once, about an image `later` seconds after the newest."""

    def __init__(self, later: float, status: int = 0) -> None:
        self.t, self.later, self.status = 0.0, later, status
        self.asked: list[str] = []

    def newest(self, seconds: float):
        self.t += seconds
        return (int(self.t), 0), drive(self.t)

    def ask(self, question: Question, not_before, seconds: float) -> SimpleNamespace:
        self.asked.append(question.text)
        assert not_before == (int(self.t), 0)
        stats = SimpleNamespace(visual_tokens_kept=64, visual_tokens_total=576, scene_reused=False)
        return SimpleNamespace(
            OK=0,
            status=self.status,
            message="the model is asleep: wake it.",
            header=SimpleNamespace(stamp=SimpleNamespace(sec=int(self.t), nanosec=0)),
            answer=true_answer(drive(self.t), question.text),
            confidence=0.5,
            stats=stats,
        )

    def scene_at(self, stamp):
        return drive(self.t + self.later)


def test_an_answer_is_judged_by_the_image_that_was_used() -> None:
    graph = Graph(later=0.0)
    rows = list(_ask(graph, 8))
    assert all(row.right for row in rows)
    assert len({row.kind for row in rows}) == 8
    # The same answers, but the replies name images of the next stretch of the drive.
    elsewhere = Graph(later=10.0)
    rows = list(_ask(elsewhere, 8))
    assert len(rows) == 8
    assert not all(row.right for row in rows)
    assert len(elsewhere.asked) > 8  # what those images leave open was asked again


def test_a_node_that_does_not_answer_ends_the_demo() -> None:
    with pytest.raises(UserError, match=r"did not answer 'is the path clear\?': the model is asle"):
        list(_ask(Graph(later=0.0, status=8), 8))


@needs_ros
def test_a_call_that_got_lost_is_made_again(
    ros_domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rclpy
    from lifecycle_msgs.srv import GetState
    from rclpy.callback_groups import ReentrantCallbackGroup
    from rclpy.executors import SingleThreadedExecutor

    from svd_vlm_ros.cli import demo_client

    monkeypatch.setattr(demo_client, "ASK_AGAIN", 0.5)
    calls: list[object] = []
    with demo_client.DemoClient(lambda: None) as client:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=ros_domain)
        node = rclpy.create_node("deaf_at_first", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)

        async def answer(request, response):
            calls.append(request)
            if len(calls) == 1:
                await rclpy.Future(executor=executor)  # never done: this reply goes nowhere
            response.current_state.label = "heard"
            return response

        node.create_service(GetState, "deaf", answer, callback_group=ReentrantCallbackGroup())
        over = threading.Event()

        def spin() -> None:
            while not over.is_set():
                executor.spin_once(timeout_sec=0.1)

        spinning = threading.Thread(target=spin)
        spinning.start()
        deaf = client._node.create_client(GetState, "deaf")
        assert deaf.wait_for_service(10.0)
        state = client._call(deaf, GetState.Request(), time.monotonic() + 30.0).current_state
        assert state.label == "heard"
        assert len(calls) == 2
        over.set()
        spinning.join()
        executor.shutdown()
        rclpy.shutdown(context=context)


@pytest.fixture
def mark() -> str:
    """A word in the environment of all processes that a demo starts."""
    return uuid.uuid4().hex


def marked(mark: str, words: str = "") -> list[int]:
    """The processes, zombies left out, that have the mark, and `words` in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command and words in command:
                    found.append(int(folder.name))
        except OSError:
            continue
    return found


@needs_ros
def test_the_demo_over_real_processes(svd_vlm, mark: str, tmp_path: Path) -> None:
    image = tmp_path / "seen.png"
    ran = svd_vlm(
        *("demo", "--questions", 2, "--json", "--keep-picture", image, "--visual-tokens", "32"),
        MARK=mark,
        timeout=115,
    )
    assert ran.status == 0, ran.err
    record = json.loads(ran.out)
    assert len(record["questions"]) == record["asked"] == 2
    assert len({row["kind"] for row in record["questions"]}) == 2
    stamps = [row["picture_stamp"] for row in record["questions"]]
    # A description may be of the image that was asked about last: none newer need have come.
    assert stamps[0] < stamps[1] <= record["description"]["picture_stamp"]
    for row in record["questions"]:
        assert row["answer"]
        assert row["right"] == (plain(row["answer"]) == plain(row["truth"]))
        assert row["visual_tokens_kept"] == 32
        assert row["visual_tokens_total"] == 576
        assert 0 <= row["confidence"] <= 1
    assert record["right"] == sum(row["right"] for row in record["questions"])
    assert record["description"]["text"]
    assert " under " in record["description"]["truth"]
    assert cv2.imread(str(image)).shape == (336, 336, 3)
    assert marked(mark) == []


@needs_ros
def test_ctrl_c_leaves_nothing_behind(mark: str) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "svd_vlm_ros.cli.main", "demo"],
        env={**os.environ, "MARK": mark, "OMP_NUM_THREADS": "1"},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 90
    while not marked(mark, "svd_vlm_ros.node.perception") and time.monotonic() < end:
        assert demo.poll() is None
        time.sleep(0.05)
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=60)
    assert demo.returncode != 0
    assert out == ""
    assert "Traceback" not in err
    assert marked(mark) == []


@needs_ros
def test_a_node_that_is_too_slow_is_an_error(svd_vlm, mark: str, tmp_path: Path) -> None:
    ran = svd_vlm("demo", "--start-seconds", 1, MARK=mark, TMPDIR=str(tmp_path))
    assert ran.status == 1
    assert len(ran.lines) == 1
    assert ran.lines[0].startswith("error: The demo stopped: ")
    (logs,) = tmp_path.glob("svd-vlm-*")
    assert f"(logs: {logs})" in ran.lines[0]
    assert {log.name for log in logs.iterdir()} == {"perception_node.log", "scout_camera.log"}
    assert marked(mark) == []


@pytest.mark.skipif(bool(has_ros), reason="is about a machine without ROS")
def test_without_ros_it_says_so(svd_vlm) -> None:
    ran = svd_vlm("demo")
    assert ran.status == 1
    assert len(ran.lines) == 1
    assert "The demo needs ROS 2" in ran.lines[0]
