# SPDX-License-Identifier: Apache-2.0
"""The embedded model behind the real service: the answers are true of the image in the header."""

from __future__ import annotations

import pytest
from robot import Robot, image_message

from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.questions import Question, standard_questions
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.srv import AskScene

SCENES = (0, 1)  # seeds of drives; their scenes are none that training saw
RIGHT = 0.5  # of all questions: far above guessing. How good the model is, test/scout asks.
CERTAIN = "ground"  # a kind that it does not get wrong


@pytest.fixture(scope="module")
def robot(robot_of_module: Robot) -> Robot:
    robot_of_module.start(
        model="scout",
        precision="bf16",
        visual_tokens=192,
        allow_random_model=False,
        cameras=["left", "right"],
        **{"camera.left.topic": "left/image", "camera.right.topic": "right/image"},
    )
    return robot_of_module


def test_answers_are_true_of_the_camera_that_was_asked(robot: Robot) -> None:
    """Two cameras see different scenes; each question goes to both, by turns."""
    scenes = {
        camera: drive(8.0, seed) for camera, seed in zip(("left", "right"), SCENES, strict=True)
    }
    asked: list[tuple[Question, AskScene.Response]] = []
    for camera, scene in scenes.items():
        shown = robot.show(image_message(render(scene), camera), camera)
        for question in standard_questions(scene):
            reply = robot.ask(question.text, camera=camera)
            assert (reply.status, reply.message) == (AskScene.Response.OK, "")
            assert reply.header == shown.header
            assert reply.stats.visual_tokens_kept == 192
            asked.append((question, reply))
    wrong = [question for question, reply in asked if reply.answer != question.answer]
    assert not [question for question in wrong if question.kind == CERTAIN]
    assert len(wrong) <= (1 - RIGHT) * len(asked), wrong


def test_choices(robot: Robot) -> None:
    scene = drive(8.0, SCENES[0])
    robot.show(image_message(render(scene), "left"), "left")
    grounds = ["grass", "gravel", "asphalt", "sand", "snow"]
    reply = robot.ask("what is the ground?", choices=grounds)
    assert reply.answer == scene.ground
    assert list(reply.probabilities).index(max(reply.probabilities)) == grounds.index(scene.ground)
