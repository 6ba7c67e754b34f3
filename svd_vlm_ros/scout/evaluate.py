# SPDX-License-Identifier: Apache-2.0
"""How well scout answers: `python -m svd_vlm_ros.scout.evaluate`, the command behind the table of
docs/scout.md.

Asks the engine about held-out scenes, one question of each kind that a scene allows, and counts
exact answers.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from .questions import QUESTION_KINDS, Question, questions
from .render import render
from .world import HELD_OUT_SEEDS, WorldScene, sample_scene

if TYPE_CHECKING:
    from ..engine import SceneEngine

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Cell:
    """One setting: how many were asked and how many exactly right, a kind of question."""

    precision: str
    selector: str
    tokens: int
    asked: dict[str, int]
    right: dict[str, int]

    @property
    def accuracy(self) -> float:
        """Share of all questions that were answered exactly, 0 to 1."""
        return sum(self.right.values()) / max(1, sum(self.asked.values()))

    def share(self, kind: str) -> float | None:
        """Share of a kind's questions, or None where none was asked."""
        return self.right[kind] / self.asked[kind] if self.asked[kind] else None

    @property
    def interval(self) -> float:
        """Half of the 95 % interval of `accuracy` (normal approximation)."""
        return (
            1.96 * (self.accuracy * (1 - self.accuracy) / max(1, sum(self.asked.values()))) ** 0.5
        )


def one_of_each(scene: WorldScene) -> list[Question]:
    """One question of each kind that the scene allows, in a wording drawn by the scene's seed."""
    rng = np.random.default_rng((scene.seed, 11))
    pool = questions(scene, rng)
    found: dict[str, Question] = {}
    for i in rng.permutation(len(pool)):
        found.setdefault(pool[i].kind, pool[i])
    return [found[kind] for kind in QUESTION_KINDS if kind in found]


def same_answer(given: str, true: str) -> bool:
    """Exact but for capitals and white space at the ends."""
    return given.strip().lower() == true


def evaluate(
    engine: SceneEngine, tokens: Sequence[int], scenes: Iterable[WorldScene]
) -> list[Cell]:
    """One cell for each number of tokens: every scene's questions, exact answers counted."""
    asked = {count: dict.fromkeys(QUESTION_KINDS, 0) for count in tokens}
    right = {count: dict.fromkeys(QUESTION_KINDS, 0) for count in tokens}
    for scene in scenes:
        picture, asking = render(scene), one_of_each(scene)
        for count in tokens:
            seen = engine.see(picture, visual_tokens=count)
            for question in asking:
                answer = engine.ask(seen, question.text, max_new_tokens=96)
                asked[count][question.kind] += 1
                right[count][question.kind] += same_answer(answer.text, question.answer)
    info = engine.info
    return [
        Cell(info.precision, info.selector, count, asked[count], right[count]) for count in tokens
    ]


def table(cells: Sequence[Cell]) -> str:
    """A Markdown table: one row a kind of question, one column a setting, in percent."""
    heads = [f"{c.selector} {c.tokens}, {c.precision}" for c in cells]
    lines = ["| question | " + " | ".join(heads) + " |", "|---" * (len(cells) + 1) + "|"]
    for kind in QUESTION_KINDS:
        shares = [cell.share(kind) for cell in cells]
        row = ["" if share is None else f"{100 * share:.1f}" for share in shares]
        lines.append(f"| {kind} | " + " | ".join(row) + " |")
    total = [f"**{100 * c.accuracy:.1f}** ± {100 * c.interval:.1f}" for c in cells]
    lines.append("| all | " + " | ".join(total) + " |")
    lines.append("| questions | " + " | ".join(str(sum(c.asked.values())) for c in cells) + " |")
    return "\n".join(lines)


@app.command()
def main(
    pictures: Annotated[int, typer.Option(help="held-out scenes")] = 500,
    visual_tokens: Annotated[str, typer.Option(help="numbers of tokens, with commas")] = (
        "576,192,64,32,16"
    ),
    selector: Annotated[str, typer.Option()] = "svd",
    precision: Annotated[str, typer.Option(help="precisions, with commas")] = "bf16",
    model: Annotated[str, typer.Option(help="scout, or a folder of `train export`")] = "scout",
    first: Annotated[int, typer.Option(help="first held-out scene")] = 0,
    out: Annotated[Path | None, typer.Option(help="file for the counts as JSON")] = None,
) -> None:
    """Prints the accuracy on held-out scenes. Example: --pictures 100 --selector svd."""
    from ..engine import SceneEngine

    counts = [int(n) for n in visual_tokens.split(",")]
    seeds = [HELD_OUT_SEEDS[first + i] for i in range(pictures)]
    cells: list[Cell] = []
    for one in precision.split(","):
        engine = SceneEngine.load(model, precision=one, selector=selector)
        scenes = (sample_scene(seed) for seed in track(seeds, f"{selector}, {one}"))
        cells += evaluate(engine, counts, scenes)
        engine.close()
    # soft_wrap: the table is for a file or a page, whatever the terminal's width.
    console = Console(soft_wrap=True)
    console.print(table(cells), markup=False, highlight=False)
    console.print(f"\n{pictures} held-out scenes, {platform.machine()}, {date.today()}")
    if out:
        out.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")


if __name__ == "__main__":
    app()
