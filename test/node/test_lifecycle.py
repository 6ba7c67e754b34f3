# SPDX-License-Identifier: Apache-2.0
"""The lifecycle through its real services, and what a request gets in each state."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter
from rclpy.task import Future
from robot import Robot, image_message, make_image, wait_until

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.srv import AskScene

Reply = AskScene.Response


class Manager:
    """A lifecycle manager of the node."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._change = robot.other.create_client(ChangeState, "perception/change_state")
        self._get = robot.other.create_client(GetState, "perception/get_state")
        wait_until(lambda: self._change.service_is_ready() and self._get.service_is_ready())

    def send(self, label: str) -> Future:
        ids = {"configure": Transition.TRANSITION_CONFIGURE}
        transition = Transition(id=ids.get(label, 0), label=label)
        return self._change.call_async(ChangeState.Request(transition=transition))

    def change(self, label: str) -> bool:
        return self._robot.result(self.send(label)).success

    def state(self) -> str:
        return self._robot.result(self._get.call_async(GetState.Request())).current_state.label


@pytest.fixture
def manager(robot: Robot) -> Manager:
    robot.start(wait=False, autostart=False)
    return Manager(robot)


def test_a_manager_takes_the_node_through_its_states(robot: Robot, manager: Manager) -> None:
    assert manager.state() == "unconfigured"
    reply = robot.ask()
    assert reply.status == Reply.NOT_ACTIVE
    assert "ros2 lifecycle set /perception configure" in reply.message

    assert manager.change("configure")
    assert manager.state() == "inactive"
    reply = robot.ask()
    assert reply.status == Reply.NOT_ACTIVE
    assert "ros2 lifecycle set /perception activate" in reply.message

    assert manager.change("activate")
    assert manager.state() == "active"
    robot.show(image_message(make_image(1)))
    assert robot.ask().status == Reply.OK

    assert manager.change("deactivate")
    assert robot.ask().status == Reply.NOT_ACTIVE
    assert manager.change("activate")
    assert robot.ask().status == Reply.OK

    thread = weakref.ref(robot.worker)
    assert manager.change("deactivate")
    assert manager.change("cleanup")
    assert manager.state() == "unconfigured"
    gc.collect()
    assert thread() is None, "nothing holds the model's thread"
    assert not robot.cameras

    assert manager.change("configure")
    assert manager.change("activate")
    robot.show(image_message(make_image(2)))
    assert robot.ask().status == Reply.OK
    assert manager.change("shutdown")
    assert manager.state() == "finalized"
    assert robot.ask().status == Reply.NOT_ACTIVE


def test_cleanup_closes_the_engine(
    robot: Robot, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    close = SceneEngine.close
    monkeypatch.setattr(
        SceneEngine, "close", lambda engine: (closed.append(threading.get_ident()), close(engine))
    )
    assert manager.change("configure")
    inference = robot.worker
    assert inference is not None
    thread = inference.thread_id
    assert manager.change("cleanup")
    assert closed == [thread]


def test_cleanup_gives_the_memory_back(
    robot: Robot, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No weight and no scene of the model is left, whatever was asked and described with it."""
    weights: list[weakref.ref] = []
    scenes: list[weakref.ref] = []
    load, see = SceneEngine.load, SceneEngine.see

    def loaded(*args: Any, **options: Any) -> SceneEngine:
        engine = load(*args, **options)
        weights.extend(weakref.ref(one) for one in engine.loaded.model.parameters())
        return engine

    def seen(*args: Any, **options: Any) -> Any:
        scene = see(*args, **options)
        scenes.append(weakref.ref(scene))
        return scene

    monkeypatch.setattr(SceneEngine, "load", loaded)
    monkeypatch.setattr(SceneEngine, "see", seen)
    robot.node.set_parameters([Parameter("description_period", value=0.1)])
    for _ in range(2):
        assert manager.change("configure")
        assert manager.change("activate")
        robot.show(image_message(make_image(1)))
        assert robot.ask().status == Reply.OK
        assert robot.ask(choices=["yes", "no"]).status == Reply.OK
        assert manager.change("deactivate")
        assert manager.change("cleanup")
        gc.collect()
        assert weights
        assert not [one for one in weights if one() is not None]
        assert not [one for one in scenes if one() is not None]
        weights.clear()


def test_another_model_and_other_cameras_when_it_is_activated_again(
    robot: Robot, manager: Manager
) -> None:
    def set_parameter(name: str, value: Any) -> Any:
        (done,) = robot.node.set_parameters([Parameter(name, value=value)])
        return done

    assert manager.change("configure")
    assert manager.change("activate")
    refused = set_parameter("precision", "bf16")
    assert not refused.successful
    assert "deactivate it before" in refused.reason
    assert manager.change("deactivate")
    first = robot.worker
    assert manager.change("activate")
    assert robot.worker is first, "nothing has changed"
    assert manager.change("deactivate")
    assert set_parameter("precision", "bf16").successful
    assert set_parameter("camera.camera.topic", "elsewhere").successful
    assert manager.change("activate")
    robot.show(image_message(make_image(1)))
    reply = robot.ask()
    assert (reply.status, reply.stats.precision) == (Reply.OK, "bf16")
    assert robot.cameras["camera"].topic == "/elsewhere"

    assert manager.change("deactivate")
    assert set_parameter("model", "nobody/nothing").successful
    assert not manager.change("activate")
    assert manager.state() == "inactive"
    reply = robot.ask()
    assert reply.status == Reply.NOT_ACTIVE
    assert "svd-vlm download nobody/nothing" in reply.message
    assert set_parameter("model", "random:tiny").successful
    assert manager.change("activate")
    robot.show(image_message(make_image(2)))
    assert robot.ask().status == Reply.OK


def test_the_node_is_served_while_it_loads(
    robot: Robot, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    load = SceneEngine.load

    def slow(*args: Any, **options: Any) -> SceneEngine:
        release.wait(60)
        return load(*args, **options)

    monkeypatch.setattr(SceneEngine, "load", slow)
    configured = manager.send("configure")
    wait_until(lambda: manager.state() == "configuring")
    reply = robot.ask()
    assert reply.status == Reply.NOT_ACTIVE
    assert "being loaded" in reply.message
    assert not manager.change("configure"), "one transition at a time"
    release.set()
    assert robot.result(configured).success
    assert manager.state() == "inactive"


def test_a_transition_that_the_state_does_not_have(robot: Robot, manager: Manager) -> None:
    assert not manager.change("activate")
    assert not manager.change("fly")
    assert manager.state() == "unconfigured"
    assert robot.ask().status == Reply.NOT_ACTIVE


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "nobody/nothing"}, "svd-vlm download nobody/nothing"),
        ({"model": "nobody/nothing"}, "model:=scout"),
        ({"selector": "guess"}, "guess"),
        ({"device": "tpu"}, "tpu"),
        ({"cameras": ["camera", "left"]}, "camera.left.topic"),
        ({"camera.camera.topic": "in valid"}, "camera.camera.topic is 'in valid'"),
        pytest.param(
            {"camera.camera.topic": "/rosout"},
            "camera.camera.topic is '/rosout'",
            marks=pytest.mark.skipif(
                not rclpy.get_rmw_implementation_identifier().startswith("rmw_fastrtps"),
                reason="other middleware lets a topic have two types in one process",
            ),
        ),
    ],
)
def test_configure_fails_with_its_reason(
    robot: Robot, manager: Manager, changes: dict, named: str
) -> None:
    good = {name: robot.node.get_parameter(name).value for name in changes}
    for name, value in changes.items():
        (done,) = robot.node.set_parameters([Parameter(name, value=value)])
        assert done.successful, done.reason
    assert not manager.change("configure")
    assert manager.state() == "unconfigured"
    reply = robot.ask()
    assert reply.status == Reply.NOT_ACTIVE
    assert named in reply.message
    for name, value in good.items():
        robot.node.set_parameters([Parameter(name, value=value)])
    assert manager.change("configure"), "mended"


def test_load_timeout(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(SceneEngine, "load", lambda *_, **__: release.wait(60))
    robot.start(wait=False, autostart=False, load_timeout=1.0)
    manager = Manager(robot)
    assert not manager.change("configure")
    assert "load_timeout" in robot.node.failure
    assert not manager.change("configure")
    assert "earlier model" in robot.node.failure
    release.set()


def test_deactivate_ends_what_waits(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    robot.start()
    manager = Manager(robot)
    robot.show(image_message(make_image(1)))
    release, began = threading.Event(), threading.Event()
    see = SceneEngine.see

    def wait_and_see(*args: Any, **options: Any) -> Any:
        began.set()
        release.wait(60)
        return see(*args, **options)

    monkeypatch.setattr(SceneEngine, "see", wait_and_see)
    current = robot.send()
    assert began.wait(60)
    waiting = robot.send()
    wait_until(lambda: robot.worker.queue.waiting() == 1)
    assert manager.change("deactivate")
    reply = robot.result(waiting)
    assert reply.status == Reply.NOT_ACTIVE
    assert "deactivated" in reply.message
    release.set()
    reply = robot.result(current)
    assert reply.status == Reply.CANCELED
    assert reply.finish_reason == "canceled"
    assert manager.change("activate")
    assert robot.ask().status == Reply.OK


def test_autostart_that_fails_is_fatal(robot: Robot) -> None:
    fatal = threading.Event()
    node = robot.start(wait=False, model="nobody/nothing")
    node.on_fatal = fatal.set
    wait_until(lambda: node.fatal)
    assert "svd-vlm download" in node.fatal
    assert node.state == "unconfigured"
