# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm demo`: camera and node as two processes over DDS, eight questions through `/ask_scene`.

Nothing is simulated but the camera's world: the node, the middleware, the service and the messages
are the real ones.
"""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from svd_vlm_ros.cli import domain, options, processes
from svd_vlm_ros.cli.console import milliseconds, print_json, print_warning, spinner, stdout
from svd_vlm_ros.errors import UserError

if TYPE_CHECKING:
    from svd_vlm_ros.cli.demo_client import DemoClient
    from svd_vlm_ros.scout.questions import Question
    from svd_vlm_ros.scout.world import WorldScene

NODE, CAMERA = "svd_vlm_ros.node.perception", "svd_vlm_ros.scout.camera"
CAMERA_RATE = 5.0  # Hz
ANSWER_SECONDS = 60.0  # for one answer on a slow, busy machine
# Questions that may turn out open, because the scene had moved on, before the demo gives up.
OPEN_TRIES = 20
MADE_AT_MOST = 100  # rounds of questions that the world makes to find one
PAUSE = 1.5  # s of the drive between two questions, so that they are about different images
KINDS = (
    "path",
    "nearest",
    "color",
    "where",
    "count",
    "ground",
    "exists",
    "sky",
    "left of",
    "exists color",
    "sign",
    "absent",
)
"""The kinds of question in the order of asking; those that the scene leaves open are passed over.
"""


@dataclass(frozen=True)
class Asked:
    """One question with its answer, and the truth about the image that was used."""

    kind: str
    question: str
    answer: str
    truth: str
    right: bool
    confidence: float
    visual_tokens_kept: int
    visual_tokens_total: int
    seconds: float  # from the request to the reply, as the client saw it
    picture_stamp: float  # s; keys of --json keep their names
    picture_reused: bool


@dataclass(frozen=True)
class Described:
    """One SceneDescription with the true description of its image."""

    text: str
    truth: str
    confidence: float
    visual_tokens_kept: int
    visual_tokens_total: int
    picture_stamp: float


def demo(
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which drive of the camera.")] = 0,
    questions: Annotated[
        int, typer.Option("--questions", min=1, max=100, help="How many questions.")
    ] = 8,
    precision: options.PrecisionOption = options.Precision.AUTO,
    visual_tokens: options.VisualTokens = "192",
    keep_image: Annotated[
        options.MaybePath,
        typer.Option(
            "--keep-picture",
            metavar="PNG",
            help="Write the image that was described to this file.",
        ),
    ] = None,
    start_seconds: Annotated[
        float, typer.Option("--start-seconds", min=1, help="How long the node may take to start.")
    ] = 120.0,
    as_json: options.AsJson = False,
) -> None:
    """Start a simulated camera and the node, ask eight questions over ROS 2, and stop everything.

    Each answer is judged by the truth about the very image that the reply's header names.
    Exit status 1 if the node did not answer.

    Example:  svd-vlm demo --questions 12 --precision int4 --keep-picture seen.png
    """
    parameters = node_parameters(precision, options.parse_visual_tokens(visual_tokens))
    _require_ros()
    from svd_vlm_ros.cli import demo_client

    with (
        domain.reserved_domain(start=os.getpid()) as number,
        domain.environment(domain.private_graph(number)),
        processes.running(_commands(seed, parameters)) as check_alive,
        demo_client.DemoClient(check_alive, keep_images=keep_image is not None) as client,
    ):
        with spinner("Starting camera and node"):
            client.wait_until_active(start_seconds)
        with spinner("Asking"):
            asked = list(_ask(client, questions))
        with spinner("Waiting for a description"):
            described = _describe(client, keep_image)
    if as_json:
        right = sum(row.right for row in asked)
        print_json(
            {
                "questions": [asdict(row) for row in asked],
                "right": right,
                "asked": len(asked),
                "description": asdict(described),
            }
        )
    else:
        _print(asked, described)


def _require_ros() -> None:
    """One sentence if ROS or the compiled interfaces are missing."""
    try:
        import rclpy  # noqa: F401

        from svd_vlm_ros.srv import AskScene  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"The demo needs ROS 2 and this package's interfaces ({error}): 'svd-vlm doctor' says "
            "what to do."
        ) from error


def node_parameters(precision: options.Precision, budget: int | float) -> dict[str, object]:
    """The node's parameters for a precision and a budget: a number of tokens, or an energy."""
    name = "energy" if isinstance(budget, float) else "visual_tokens"
    return {"model": "scout", "precision": precision.value, name: budget}


def _commands(seed: int, node: Mapping[str, object]) -> dict[str, list[str]]:
    """The two processes of the demo, by the names of their executables."""
    camera = {"seed": seed, "rate": CAMERA_RATE}
    return {
        "scout_camera": processes.module_command(CAMERA, *_ros_parameters(camera)),
        "perception_node": processes.module_command(NODE, *_ros_parameters(node)),
    }


def _ros_parameters(values: Mapping[str, object]) -> list[str]:
    pairs = (("-p", f"{name}:={value}") for name, value in values.items())
    return ["--ros-args", *(word for pair in pairs for word in pair)]


def _ask(client: "DemoClient", wanted: int) -> Iterator[Asked]:
    """Ask `wanted` questions of as many kinds as possible, each about the newest image."""
    from svd_vlm_ros.scout.questions import standard_questions

    tried: list[str] = []
    judged = 0
    while judged < wanted:
        if len(tried) - judged == OPEN_TRIES:
            raise UserError("The demo stopped: the scenes changed faster than they were asked of.")
        stamp, scene = client.newest(PAUSE if tried else 0.0)
        question = next_question(standard_questions(scene), tried)
        tried.append(question.kind)
        begun = time.perf_counter()
        reply = client.ask(question, not_before=stamp, seconds=ANSWER_SECONDS)
        seconds = time.perf_counter() - begun
        if reply.status != reply.OK:
            raise UserError(f"The node did not answer '{question.text}': {reply.message}")
        truth = true_answer(client.scene_at(reply.header.stamp), question.text)
        if truth is None:  # the image that was used leaves this open: it counts neither way
            continue
        judged += 1
        yield Asked(
            kind=question.kind,
            question=question.text,
            answer=reply.answer,
            truth=truth,
            right=plain(reply.answer) == plain(truth),
            confidence=reply.confidence,
            visual_tokens_kept=reply.stats.visual_tokens_kept,
            visual_tokens_total=reply.stats.visual_tokens_total,
            seconds=seconds,
            picture_stamp=reply.header.stamp.sec + reply.header.stamp.nanosec / 1e9,
            picture_reused=reply.stats.scene_reused,
        )


def next_question(offered: "list[Question]", tried: list[str]) -> "Question":
    """Of the questions that a scene allows, the one whose kind was asked least often, in the order
    of `KINDS`.
    """
    known = [question for question in offered if question.kind in KINDS]
    return min(known, key=lambda question: (tried.count(question.kind), KINDS.index(question.kind)))


def true_answer(scene: "WorldScene", text: str) -> str | None:
    """The answer to a question about a scene; None if the scene leaves it open.

    The world answers questions that it makes itself: they are made until this one is among them.
    """
    import numpy as np

    from svd_vlm_ros.scout.questions import questions, standard_questions

    made = standard_questions(scene)
    for seed in range(MADE_AT_MOST):
        for question in made:
            if question.text == text:
                return question.answer
        made = questions(scene, np.random.default_rng(seed))
    return None


def plain(answer: str) -> str:
    """An answer without what makes no difference: capitals, spaces around it, a full stop."""
    return answer.strip().lower().rstrip(".")


def _describe(client: "DemoClient", keep_image: Path | None) -> Described:
    from svd_vlm_ros.scout.questions import describe

    message = client.next_description(ANSWER_SECONDS)
    scene = client.scene_at(message.header.stamp)
    if keep_image:
        from svd_vlm_ros.images.disk import write_image

        image = client.image_at(message.header.stamp)
        if image is None:
            print_warning(f"The described image did not arrive at the demo: no {keep_image}.")
        else:
            write_image(keep_image, image)
    return Described(
        text=message.text,
        truth=describe(scene),
        confidence=message.confidence,
        visual_tokens_kept=message.stats.visual_tokens_kept,
        visual_tokens_total=message.stats.visual_tokens_total,
        picture_stamp=message.header.stamp.sec + message.header.stamp.nanosec / 1e9,
    )


def _print(asked: list[Asked], described: Described) -> None:
    table = Table(title="asked through /ask_scene", title_justify="left")
    for column in ("question", "answer", "truth", "right?"):
        table.add_column(column)
    for column in ("confidence", "tokens", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in asked:
        table.add_row(
            Text(row.question),
            Text(row.answer),
            Text(row.truth),
            Text("yes", style="green") if row.right else Text("no", style="bold red"),
            f"{row.confidence:.2f}",
            f"{row.visual_tokens_kept}/{row.visual_tokens_total}",
            milliseconds(row.seconds),
        )
    console = stdout()
    console.print(table)
    console.print(f"{sum(row.right for row in asked)} of {len(asked)} right\n")
    console.print(Text("/scene_description"), style="bold")
    console.print(Padding(Text(described.text), (0, 0, 0, 2)))
    console.print(Padding(Text(f"truth: {described.truth}"), (0, 0, 0, 2)))
    console.print(
        f"  confidence {described.confidence:.2f}, "
        f"{described.visual_tokens_kept}/{described.visual_tokens_total} tokens"
    )
