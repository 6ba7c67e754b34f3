# SPDX-License-Identifier: Apache-2.0
"""Facts that are added while the node runs, over DDS: asked as promised, or the node says why not.

The node promises that standing questions wait for three periods at most, whatever else is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.parameter import Parameter
from robot import PATIENCE, Robot, image_message, make_image, reference_engine, wait_until

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.msg import FactChanged, SceneDescription
from svd_vlm_ros.node.inference.tasks import Priority
from svd_vlm_ros.node.interfaces.description_topics import OVERDUE

SOON = 30.0  # s; far over three periods, a bound against waiting for ever
ASKED = 6  # questions under way at any time


def listen(robot: Robot, kind: Any, topic: str) -> list:
    got: list = []
    robot.other.create_subscription(kind, topic, got.append, 10)
    wait_until(lambda: robot.other.count_publishers(topic))
    return got


def set_parameters(robot: Robot, **values: Any) -> None:
    for done in robot.node.set_parameters([Parameter(n, value=v) for n, v in values.items()]):
        assert done.successful, done.reason


@contextmanager
def asked_without_pause(robot: Robot) -> Iterator[None]:
    """Clients that ask again as soon as they are answered."""
    going = True

    def again(_: Any = None) -> None:
        if going:
            robot.send(max_new_tokens=24).add_done_callback(again)

    for _ in range(ASKED):
        again()
    wait_until(lambda: robot.worker.queue.waiting(Priority.QUESTION))
    yield
    going = False
    wait_until(lambda: not robot.worker.queue.waiting() and not robot.current())


def test_facts_added_under_a_steady_load_are_asked(robot: Robot) -> None:
    """A description without facts waits already, and would for as long as questions come."""
    robot.start(description_period=0.1, change_threshold=0.0, batch_size=1)
    changes = listen(robot, FactChanged, "/fact_changed")
    robot.show(image_message(make_image(0)))
    with asked_without_pause(robot):
        robot.show(image_message(make_image(1)))
        wait_until(lambda: robot.worker.queue.waiting(Priority.DESCRIPTION))
        time.sleep(OVERDUE + 3 * 0.1)
        set_parameters(robot, facts=["first"])
        set_parameters(robot, **{"fact.first.question": "is it dark?"})
        assert robot.node._descriptions.why_facts_wait() == "", "it is the description that waited"
        wait_until(lambda: changes, SOON)
        # The words of that image wait behind the questions; more facts do not wait for them.
        set_parameters(robot, facts=["first", "second"])
        set_parameters(robot, **{"fact.second.question": "is it bright?"})
        wait_until(lambda: [c for c in changes if c.fact.name == "second"], SOON)


def test_overdue_facts_go_before_all_questions_that_wait(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would wait for as many answers as there are clients, each of several seconds."""
    robot.start(
        description_period=0.05,
        batch_size=1,
        facts=["door"],
        **{"fact.door.question": "is it open?"},
    )
    changes = listen(robot, FactChanged, "/fact_changed")
    robot.show(image_message(make_image(1)))
    wait_until(lambda: changes and not robot.worker.queue.waiting() and not robot.current())
    release, done = threading.Event(), []
    ask_many, choose_many = SceneEngine.ask_many, SceneEngine.choose_many

    def ask(engine: SceneEngine, *args: Any, **options: Any) -> Any:
        done.append("question")
        release.wait(PATIENCE)
        return ask_many(engine, *args, **options)

    def choose(engine: SceneEngine, *args: Any, **options: Any) -> Any:
        done.append("facts")
        return choose_many(engine, *args, **options)

    monkeypatch.setattr(SceneEngine, "ask_many", ask)
    monkeypatch.setattr(SceneEngine, "choose_many", choose)
    futures = [robot.send(max_new_tokens=2)]
    wait_until(robot.current)
    futures += [robot.send(max_new_tokens=2) for _ in range(ASKED)]
    queue = robot.worker.queue
    wait_until(lambda: queue.waiting(Priority.QUESTION) == ASKED)
    robot.show(image_message(make_image(2)))
    wait_until(lambda: queue.waiting(Priority.FACT))
    time.sleep(3 * 0.05 + 0.1)  # its patience
    release.set()
    for future in futures:
        robot.result(future)
    assert done[:3] == ["question", "facts", "question"]


def test_an_image_counts_once_however_often_it_is_asked(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a load of questions its words are left out, and its facts are asked again."""
    question, colours = "what colour is it?", ["red", "green", "blue"]
    robot.start(
        description_period=0.05,
        change_threshold=0.0,
        batch_size=1,
        fact_frames=2,
        facts=["colour"],
        **{"fact.colour.question": question, "fact.colour.choices": colours},
    )
    engine = reference_engine()
    found = [engine.choose(engine.see(make_image(n)), question, colours).text for n in range(30)]
    other = next(n for n in range(30) if found[n] != found[0])
    changes = listen(robot, FactChanged, "/fact_changed")
    robot.show(image_message(make_image(0)))
    wait_until(lambda: changes)
    asked, choose_many = [], SceneEngine.choose_many

    def choose(engine: SceneEngine, scene: Any, facts: Any) -> Any:
        asked.append(facts)
        return choose_many(engine, scene, facts)

    monkeypatch.setattr(SceneEngine, "choose_many", choose)
    with asked_without_pause(robot):
        message = image_message(make_image(other))
        message.header.stamp = robot.stamp()
        robot.publisher("image").publish(message)  # once: `show` may send it more often
        wait_until(lambda: robot.cameras["camera"].latest.message.header == message.header)
        before = len(asked)
        wait_until(lambda: len(asked) > before + 3)
    assert [one.fact.value for one in changes] == [found[0]]
    robot.show(image_message(make_image(other)))
    wait_until(lambda: len(changes) > 1)
    assert [one.fact.value for one in changes] == [found[0], found[other]]


def test_a_shorter_period_holds_for_what_waits_already(robot: Robot) -> None:
    robot.start(
        description_period=3600.0,
        change_threshold=0.0,
        batch_size=1,
        facts=["first"],
        **{"fact.first.question": "is it dark?"},
    )
    changes = listen(robot, FactChanged, "/fact_changed")
    robot.show(image_message(make_image(0)))
    with asked_without_pause(robot):
        set_parameters(robot, **{"fact.first.choices": ["dark", "bright"]})  # begins a look
        wait_until(lambda: robot.worker.queue.waiting(Priority.FACT))
        assert not changes
        set_parameters(robot, description_period=0.1)
        wait_until(lambda: changes, SOON)


def test_new_facts_are_asked_about_an_image_that_was_described(robot: Robot) -> None:
    """The camera sends no other: what is new is the question."""
    robot.start(description_period=0.05, max_new_tokens=2)
    descriptions = listen(robot, SceneDescription, "/scene_description")
    changes = listen(robot, FactChanged, "/fact_changed")
    shown = robot.show(image_message(make_image(1)))
    wait_until(lambda: descriptions and descriptions[-1].header == shown.header)
    set_parameters(robot, facts=["door"])
    set_parameters(robot, **{"fact.door.question": "is the door open?"})
    (change,) = wait_until(lambda: changes, SOON)
    assert (change.fact.name, change.header) == ("door", shown.header)
    assert (
        wait_until(lambda: [one for one in descriptions if one.facts], SOON)[0].header
        == shown.header
    )


def test_diagnostics_say_why_facts_are_not_asked(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.start(description_period=0.05, facts=["door"], **{"fact.door.question": "is it open?"})
    got = listen(robot, DiagnosticArray, "/diagnostics")

    def warned(named: str) -> bool:
        statuses = got[-1].status if got else []
        return any(
            s.name.endswith("requests") and s.level == DiagnosticStatus.WARN and named in s.message
            for s in statuses
        )

    set_parameters(robot, facts=["door", "window"])
    wait_until(lambda: warned("set fact.window.question"))
    set_parameters(robot, facts=["door"], description_period=0.0)
    wait_until(lambda: warned("description_period is 0"))
    set_parameters(robot, description_period=0.05)
    wait_until(lambda: got and not warned(""))
    # One answer that takes longer than the facts may wait.
    release = False
    ask_many = SceneEngine.ask_many

    def slow(engine: SceneEngine, *args: Any, **options: Any) -> Any:
        wait_until(lambda: release)
        return ask_many(engine, *args, **options)

    monkeypatch.setattr(SceneEngine, "ask_many", slow)
    robot.show(image_message(make_image(1)))
    future = robot.send(timeout=90.0)
    wait_until(robot.current)
    robot.show(image_message(make_image(2)))
    wait_until(lambda: warned("The facts of camera 'camera' have waited for"))
    release = True
    robot.result(future)
    wait_until(lambda: not warned("The facts"))
