# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm annotate`: descriptions and standing questions for a recorded bag, without ROS."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, List, Optional  # noqa: UP035 (typer 0.9)

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import print_json, print_warning, stderr, stdout
from svd_vlm_ros.defaults import SELECTOR
from svd_vlm_ros.errors import UserError

if TYPE_CHECKING:
    from svd_vlm_ros.facts import Fact

Texts = Optional[List[str]]  # noqa: UP006, UP045 (typer 0.9 reads no newer form)


def annotate(
    bag: Annotated[
        Path,
        typer.Argument(
            metavar="BAG", help="An .mcap or .db3 file, or a folder of ros2 bag record."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="OUT.mcap", help="The bag to write, an .mcap file.")
    ],
    questions: Annotated[
        Texts,
        typer.Option(
            "--questions",
            "-q",
            metavar="NAME=QUESTION [A,B]",
            help="A standing question and its answers (none: yes, no). Repeat it for more.",
        ),
    ] = None,
    topic: Annotated[
        Texts, typer.Option("--topic", help="A topic of images; repeat for more. Default: all.")
    ] = None,
    period: Annotated[
        float,
        typer.Option("--period", min=0.0, help="Seconds between two images; 0: every image."),
    ] = 0.0,
    prompt: Annotated[
        options.MaybeText,
        typer.Option("--prompt", help="Ask for the description in other words than the model's."),
    ] = None,
    describe: Annotated[
        bool, typer.Option("--describe/--no-describe", help="Describe each image in words.")
    ] = True,
    topic_out: Annotated[
        str, typer.Option("--topic-out", help="Where the descriptions go.")
    ] = "/scene_description",
    fact_frames: Annotated[
        int,
        typer.Option("--fact-frames", min=1, help="Images until another answer counts."),
    ] = 2,
    compress: Annotated[
        bool, typer.Option("--compress", help="Write compressed chunks (zstd).")
    ] = False,
    model: options.Model = "scout",
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    precision: options.PrecisionOption = options.Precision.AUTO,
    selector: options.SelectorName = SELECTOR,
    visual_tokens: options.VisualTokens = "192",
    token_cap: options.TokenCap = 192,
    device: options.Device = "auto",
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    position_policy: options.PositionPolicyOption = options.PositionPolicy.AUTO,
    max_new_tokens: options.MaxNewTokens = 128,
    as_json: options.AsJson = False,
) -> None:
    """Describe the images of a recorded bag, and write it with the descriptions beside them.

    Stop it at any time: the same command goes on from there, and the result is the same file.

    Example:  svd-vlm annotate drive.mcap --out seen.mcap -q 'path=is the path clear? \\[yes,no]'
    """
    budget = options.parse_visual_tokens(visual_tokens)
    facts = _facts(questions or [])
    from svd_vlm_ros.bags.annotate import Work, check_out, journal_path
    from svd_vlm_ros.bags.annotate import annotate as annotate_bag
    from svd_vlm_ros.bags.recording import image_topics, open_bag

    work = Work(
        prompt=prompt,
        describe=describe,
        facts=facts,
        fact_frames=fact_frames,
        topics=tuple(topic or ()),
        period=period,
        topic=topic_out,
        max_new_tokens=max_new_tokens,
        compress=compress,
    )
    with open_bag(bag) as reader:
        check_out(out, reader, work)
        image_topics(reader, work.topics)  # what can be refused is refused before torch loads
        engine, _ = options.load_engine(
            *(model, precision, selector, budget, token_cap, device),
            *(min_pixels, max_pixels, position_policy, runtime),
        )
        try:
            with _bar() as on_step:
                done = annotate_bag(reader, bag, out, engine, work, on_step)
        except KeyboardInterrupt:
            raise UserError(
                f"Stopped: what was found is in {journal_path(out)}, and the same command goes on "
                "from there."
            ) from None
        finally:
            engine.close()
    described = done.images - done.unreadable
    if as_json:
        print_json(
            {
                "bag": str(bag),
                "out": str(out),
                "topics": list(done.topics),
                "pictures": done.images,
                "described": described,
                "unreadable": done.unreadable,
                "from an earlier run": done.kept,
            }
        )
        return
    for name, reason in done.reasons.items():
        print_warning(f"{name}: some of its images can't be read, the first one because {reason}.")
    stdout().print(f"{out}: {described} descriptions on {topic_out}.", soft_wrap=True)
    stdout().print(f"play it:  ros2 bag play {out}", soft_wrap=True)


def _facts(questions: list[str]) -> tuple["Fact", ...]:
    """The standing questions; `name=question [a,b]` and `name: question [a, b]` are the same."""
    from svd_vlm_ros.facts import parse_fact

    facts = tuple(parse_fact(re.sub(r"^(\s*\w+\s*)=", r"\1:", text, count=1)) for text in questions)
    names = [fact.name for fact in facts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two questions are named '{name}': give each its own name.")
    return facts


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], object]]:
    """A progress bar on stderr, on a terminal only. Yields what `annotate` reports its steps to."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = stderr()
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    names = {"looking": "Looking at the images", "writing": "Writing the bag"}
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def step(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(names[what], total=total)
            progress.update(tasks[what], completed=done)

        yield step
