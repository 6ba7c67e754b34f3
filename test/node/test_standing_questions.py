# SPDX-License-Identifier: Apache-2.0
"""Facts and descriptions over DDS: what is asked, what is published, and what is not done again."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from robot import Robot, image_message, make_image, reference_engine, wait_until

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.msg import FactChanged, SceneDescription
from svd_vlm_ros.node.cameras.thumbnails import difference, thumbnail
from svd_vlm_ros.srv import AskScene

COLOURS = ["red", "green", "blue"]
FACTS = {
    "facts": ["path", "colour", "behind"],
    "fact.path.question": "is the path clear?",
    "fact.colour.question": "what colour is it?",
    "fact.colour.choices": COLOURS,
    "fact.behind.question": "is it dark?",
    "fact.behind.camera": "rear",
    "cameras": ["front", "rear"],
    "camera.front.topic": "front/image",
    "camera.rear.topic": "rear/image",
}
LATCHED = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


def listen(robot: Robot, kind: Any, topic: str, qos: Any = 10) -> list:
    got: list = []
    robot.other.create_subscription(kind, topic, got.append, qos)
    return got


def set_parameters(robot: Robot, **values: Any) -> list:
    return robot.node.set_parameters([Parameter(name, value=v) for name, v in values.items()])


def images_seen(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> list:
    """The images that the node's engine looks at from now on."""
    seen: list = []
    see = SceneEngine.see

    def counted(engine: SceneEngine, image: Any, **options: Any) -> Any:
        if threading.get_ident() == robot.worker.thread_id:
            seen.append(image)
        return see(engine, image, **options)

    monkeypatch.setattr(SceneEngine, "see", counted)
    return seen


def likeliest(number: int, question: str, choices: list[str]) -> tuple[str, list[float]]:
    """What the model says about an image."""
    engine = reference_engine()
    answer = engine.choose(engine.see(make_image(number)), question, choices)
    return answer.text, list(answer.probabilities)


def shown_and_described(robot: Robot, got: list, number: int, camera: str = "front") -> Any:
    """Show an image until it is described; its description."""
    shown = robot.show(image_message(make_image(number), camera), camera)
    found = wait_until(lambda: [one for one in got if one.header == shown.header])
    return found[0]


def test_facts_are_asked_on_the_scene_that_is_described(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.start(description_period=0.05, max_new_tokens=4, fact_frames=1, **FACTS)
    seen = images_seen(robot, monkeypatch)
    got = listen(robot, SceneDescription, "scene_description")
    changes = listen(robot, FactChanged, "fact_changed", LATCHED)
    wait_until(lambda: robot.other.count_publishers("/scene_description"))
    described = shown_and_described(robot, got, 1)
    assert [fact.name for fact in described.facts] == ["path", "colour"], (
        "not those of the other camera"
    )
    path, colour = described.facts
    assert (path.question, path.choices) == ("is the path clear?", ["yes", "no"])
    for fact in described.facts:
        value, probabilities = likeliest(1, fact.question, list(fact.choices))
        assert fact.value == value
        assert list(fact.probabilities) == pytest.approx(probabilities, abs=1e-4)
        assert not fact.changed
    assert colour.choices == COLOURS
    assert described.text
    assert not described.stats.scene_reused, "the description's own look"
    assert described.stats.encode_seconds > 0
    assert len(seen) == len(got), "facts and description of an image cost one encoding"
    wait_until(lambda: len(changes) >= 2)
    assert [(one.fact.name, one.previous, one.fact.changed) for one in changes[:2]] == [
        ("path", "", False),
        ("colour", "", False),
    ]

    numbers = range(2, 60)
    other = next(n for n in numbers if likeliest(n, colour.question, COLOURS)[0] != colour.value)
    before = len(changes)
    described = shown_and_described(robot, got, other)
    now = next(fact for fact in described.facts if fact.name == "colour")
    assert now.changed
    assert now.value == likeliest(other, colour.question, COLOURS)[0]
    change = wait_until(lambda: [c for c in changes[before:] if c.fact.name == "colour"])[0]
    assert (change.previous, change.fact.value) == (colour.value, now.value)
    assert change.header == described.header
    assert change.camera == "front"

    late = listen(robot, FactChanged, "fact_changed", LATCHED)
    wait_until(lambda: len(late) >= len(changes))
    rear = shown_and_described(robot, got, 3, "rear")
    assert [fact.name for fact in rear.facts] == ["behind"]


def test_facts_change_live(robot: Robot) -> None:
    robot.start(description_period=0.05, max_new_tokens=2)
    got = listen(robot, SceneDescription, "scene_description")
    wait_until(lambda: robot.other.count_publishers("/scene_description"))
    assert list(shown_and_described(robot, got, 1, "camera").facts) == []
    (done,) = set_parameters(robot, facts=["door"])
    assert done.successful
    assert not robot.node.settings.facts, "it has no question yet"
    (done,) = set_parameters(robot, **{"fact.door.question": "is the door open?"})
    assert done.successful
    (fact,) = shown_and_described(robot, got, 2, "camera").facts
    assert (fact.name, fact.question) == ("door", "is the door open?")
    for name, value, named in [
        ("facts", ["1st"], "begins with a letter"),
        ("facts", ["a", "a"], "twice"),
        ("fact.door.choices", ["yes"], "1 choices"),
        ("fact.door.camera", "left", "fact.door.camera is 'left'"),
        ("fact.door.question", "x" * 3000, "too long"),
    ]:
        (done,) = set_parameters(robot, **{name: value})
        assert not done.successful
        assert named in done.reason
    (done,) = robot.node.set_parameters([Parameter("facts", Parameter.Type.STRING_ARRAY, [])])
    assert done.successful
    assert list(shown_and_described(robot, got, 3, "camera").facts) == []


def test_facts_are_asked_under_a_steady_load_of_questions(robot: Robot) -> None:
    """Again and again, and not once only: the words that wait behind the questions are left out."""
    robot.start(description_period=0.05, max_new_tokens=4, change_threshold=0.0, **FACTS)
    robot.show(image_message(make_image(0), "front"), "front")
    made, choose_many = [], SceneEngine.choose_many

    def counted(engine: SceneEngine, scene: Any, asked: Any) -> Any:
        made.append(asked)
        return choose_many(engine, scene, asked)

    waiting = [robot.send(camera="front") for _ in range(4)]
    number = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SceneEngine, "choose_many", counted)

        def asked_again() -> bool:
            nonlocal number
            for index, future in enumerate(waiting):
                if future.done():
                    assert future.result().status == AskScene.Response.OK
                    waiting[index] = robot.send(camera="front")
            number += 1
            robot.publisher("front/image").publish(_stamped(robot, number))
            return len(made) >= 4

        wait_until(asked_again)
    for future in waiting:
        assert robot.result(future).status == AskScene.Response.OK


def _stamped(robot: Robot, number: int) -> Any:
    message = image_message(make_image(number), "front")
    message.header.stamp = robot.stamp()
    return message


def test_an_image_without_news_is_not_described_again(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.start(
        description_period=0.05,
        max_new_tokens=4,
        facts=["path"],
        **{"fact.path.question": "is the path clear?"},
    )
    seen = images_seen(robot, monkeypatch)
    got = listen(robot, SceneDescription, "scene_description")
    wait_until(lambda: robot.other.count_publishers("/scene_description"))
    pixels = make_image(1)
    first = robot.show(image_message(pixels))
    wait_until(lambda: got)
    made = len(seen)
    before = len(got)
    noise = np.random.default_rng(0).normal(0, 2, pixels.shape)
    noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    second = robot.show(image_message(noisy))
    again = wait_until(lambda: got[before:])[0]
    assert len(seen) == made, "nothing was computed"
    assert again.text == got[0].text
    assert again.stats.scene_reused
    assert again.stats.encode_seconds == again.stats.decode_seconds == 0
    assert again.header == first.header, "the image that the words are about"
    assert [fact.value for fact in again.facts] == [fact.value for fact in got[0].facts]
    wait_until(lambda: robot.node.health.snapshot().repeated >= 1)
    assert robot.ask().header == second.header, "a question always gets the newest image"

    small = noisy.copy()
    small[:6, :6] = 255 - small[:6, :6]  # under 1 % of the image
    third = robot.show(image_message(small))
    described = wait_until(lambda: [one for one in got if one.header == third.header])[0]
    assert not described.stats.scene_reused
    set_parameters(robot, change_threshold=0.0)
    fourth = robot.show(image_message(small))
    wait_until(lambda: [one for one in got if one.header == fourth.header])


def test_another_system_prompt_is_news_and_heard(robot: Robot) -> None:
    """To questions and descriptions, at once; what cannot be used is taken back."""
    robot.start(description_period=0.05, max_new_tokens=8)
    got = listen(robot, SceneDescription, "scene_description")
    wait_until(lambda: robot.other.count_publishers("/scene_description"))
    plain = shown_and_described(robot, got, 1, "camera")
    length = robot.ask().stats.prompt_tokens
    (done,) = set_parameters(robot, system_prompt="be brief and kind.")
    assert done.successful
    wait_until(lambda: robot.worker.info.system_prompt)
    described = shown_and_described(robot, got, 1, "camera")
    assert not described.stats.scene_reused, "words after another prompt are other words"
    assert described.stats.prompt_tokens > plain.stats.prompt_tokens
    assert robot.ask().stats.prompt_tokens == length + (
        described.stats.prompt_tokens - plain.stats.prompt_tokens
    )
    (done,) = set_parameters(robot, system_prompt="kind " * 20_000)
    assert done.successful, "only the model has the length of its context"
    wait_until(lambda: robot.node.settings.system_prompt == "be brief and kind.")
    assert robot.ask().status == AskScene.Response.OK


def test_other_settings_are_news(robot: Robot) -> None:
    robot.start(description_period=0.05, max_new_tokens=4)
    got = listen(robot, SceneDescription, "scene_description")
    wait_until(lambda: robot.other.count_publishers("/scene_description"))
    robot.show(image_message(make_image(1)))
    wait_until(lambda: got)
    for name, value in [("visual_tokens", 16), ("max_new_tokens", 5), ("selector", "grid")]:
        (done,) = set_parameters(robot, **{name: value})
        assert done.successful, done.reason
        assert robot.ask().status == AskScene.Response.OK, "the engine has followed"
        shown = robot.show(image_message(make_image(1)))
        described = wait_until(
            lambda shown=shown: [one for one in got if one.header == shown.header]
        )
        assert described[0].stats.visual_tokens_kept in (192, 16)
    assert described[0].stats.selector == "grid"


@pytest.mark.parametrize("size", [(48, 64), (480, 640), (1080, 1920), (3, 5)])
def test_thumbnails_of_any_size(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert thumbnail(pixels).shape == (64, 64, 3)
    assert difference(thumbnail(pixels), thumbnail(pixels)) == 0.0
    assert difference(thumbnail(pixels * 0), thumbnail(pixels * 0 + 255)) == 1.0


def test_noise_is_no_news_and_a_small_thing_is() -> None:
    rng = np.random.default_rng(0)
    before = np.kron(make_image(1), np.ones((10, 10, 1), np.uint8))
    noisy = np.clip(before + rng.normal(0, 6, before.shape), 0, 255).astype(np.uint8)
    assert difference(thumbnail(before), thumbnail(noisy)) < 0.01
    after = noisy.copy()
    after[200:240, 300:340] = 255 - after[200:240, 300:340]  # 0.5 % of the image
    assert difference(thumbnail(before), thumbnail(after)) > 0.05
