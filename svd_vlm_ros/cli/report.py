# SPDX-License-Identifier: Apache-2.0
"""An answer for people (text) and for programs (a dict for JSON)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from svd_vlm_ros.cli.console import milliseconds, stdout
from svd_vlm_ros.images.disk import write_image

if TYPE_CHECKING:
    import numpy as np

    from svd_vlm_ros.engine import Answer, EngineInfo, Scene

STAGES = (
    ("load", "model loaded and warmed"),
    ("preprocess", "image padded and resized"),
    ("encode", "vision tower"),
    ("select", "tokens chosen"),
    ("project", "projector"),
    ("prefill_scene", "system prompt read, once for all images"),
    ("prefill_question", "image and question read"),
    ("decode", "answer written"),
)


def seconds_of(scene: Scene, answer: Answer, load: float) -> dict[str, float]:
    """Seconds of every stage in order; `first_token` and `total` are since the question was put."""
    made, asked = asdict(scene.timings), asdict(answer.timings)
    return {
        "load": load,
        "preprocess": made["preprocess"],
        "encode": made["encode"],
        "select": made["select"] + asked["select"],
        "project": made["project"] + asked["project"],
        "prefill_scene": made["prefill"],
        "prefill_question": asked["prefill"],
        "decode": asked["decode"],
        "first_token": asked["first_token"],
        "total": asked["total"],
    }


def answer_record(
    info: EngineInfo,
    scene: Scene,
    answer: Answer,
    load: float,
    image: Path,
    question: str,
    choices: Sequence[str] = (),
) -> dict[str, Any]:
    """All that is known about an answer, ready for JSON. Times in seconds."""
    return {
        "image": str(image),
        "question": question,
        "answer": answer.text,
        "confidence": answer.confidence,
        "choices": [
            {"text": text, "probability": probability}
            for text, probability in zip(choices, answer.probabilities, strict=False)
        ],
        "finish_reason": answer.finish_reason,
        "model": info.model,
        "random_weights": info.random_weights,
        "runtime": info.runtime,
        "precision": info.precision,
        "selector": info.selector,
        "device": str(info.device),
        "visual_tokens_kept": scene.tokens_kept,
        "visual_tokens_total": scene.tokens_total,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
        "seconds": seconds_of(scene, answer, load),
    }


def print_answer(record: dict[str, Any]) -> None:
    """Print the answer, then what it rests on and what it cost."""
    console = stdout()
    console.print(Text(record["answer"] or "(no words)", style="bold"), soft_wrap=True)
    for choice in record["choices"]:
        console.print(Text(f"  {choice['probability']:6.1%}  {choice['text']}"))
    endings = {"length": ", cut at --max-new-tokens", "stop": "", "choice": ""}
    ending = endings.get(record["finish_reason"], f", {record['finish_reason']}")
    console.print(
        f"confidence {record['confidence']:.2f}, "
        f"{record['visual_tokens_kept']} of {record['visual_tokens_total']} visual tokens kept "
        f"by {record['selector']}, {record['model']} in {record['precision']} on "
        f"{record['device']} ({record['runtime']}){ending}",
        soft_wrap=True,
    )
    times = Table.grid(padding=(0, 2))
    times.add_column()
    times.add_column(justify="right")
    for stage, meaning in STAGES:
        times.add_row(meaning, milliseconds(record["seconds"][stage]))
    console.print(Padding(times, (0, 0, 0, 2), expand=False))


def write_overlay(
    path: Path, image: np.ndarray, scene: Scene, question: str, answer: Answer
) -> None:
    """Draw the kept patches and the answer over the image and write it to a file."""
    from svd_vlm_ros.overlay import draw_overlay

    kept = answer.selection.indices.tolist() if answer.selection else ()
    boxes = [scene.patch_box(index) for index in kept]
    write_image(path, draw_overlay(image, boxes, question, answer.text))
