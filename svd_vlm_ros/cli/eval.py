# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm eval`: selectors compared on GQA, TextVQA or scout, as the papers compare them."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import print_json, print_warning, stderr
from svd_vlm_ros.cli.eval_plan import PRECISIONS, plan_run

if TYPE_CHECKING:
    from svd_vlm_ros.evaluation.runs import Run

LOG_EVERY = 60.0  # s between two lines of a log
INTERRUPTED = 130  # the exit status of a shell's command that was stopped by Ctrl-C


def evaluate(
    task: Annotated[
        str, typer.Option("--task", metavar="NAME", help="scout, gqa or textvqa.")
    ] = "",
    model: options.Model = "scout",
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="A,B", help=f"Of {', '.join(PRECISIONS)}."),
    ] = "bf16",
    selectors: Annotated[
        str, typer.Option("--selectors", metavar="A,B|all", help="svd, none, ... or all of them.")
    ] = "none,svd",
    visual_tokens: Annotated[
        str, typer.Option("--visual-tokens", metavar="N,N", help="Numbers of tokens to keep.")
    ] = "576,192,128,64,32,16",
    images: Annotated[
        int,
        typer.Option(
            "--pictures",
            "--limit",
            min=0,
            help="Only the first so many images. 0: all; of scout 100.",
        ),
    ] = 0,
    data: Annotated[
        options.MaybePath, typer.Option("--data", metavar="DIR", help="The data set's folder.")
    ] = None,
    ocr: Annotated[
        bool, typer.Option("--ocr/--no-ocr", help="TextVQA: OCR tokens in the prompt, or not.")
    ] = True,
    out: Annotated[
        options.MaybePath,
        typer.Option(
            "--out", metavar="DIR", help="The folder of answers; by default eval-TASK-MODEL."
        ),
    ] = None,
    report: Annotated[
        options.MaybePath,
        typer.Option(
            "--report",
            metavar="DIR",
            help="Write DIR/report.html; without --task from the answers in DIR, running nothing.",
        ),
    ] = None,
    table: Annotated[
        options.MaybePath,
        typer.Option("--table", metavar="DIR", help="Print DIR's tables, running nothing."),
    ] = None,
    corruptions: Annotated[
        str,
        typer.Option(
            "--corruptions", metavar="A,B|all", help="Also ask about corrupted images: fog, ..."
        ),
    ] = "",
    severities: Annotated[
        str, typer.Option("--severities", metavar="N,N", help="How badly corrupted, 1 to 5.")
    ] = "3",
    rephrase: Annotated[
        bool, typer.Option("--rephrase", help="Also ask in another wording.")
    ] = False,
    times: Annotated[
        Optional[int],  # noqa: UP045 (typer 0.9 reads no `int | None`)
        typer.Option(
            "--times",
            min=0,
            help="Images to time in each cell, one question alone; by default 3 with --report.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of corruptions, wordings and the selector random.")
    ] = 0,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Compare selectors: accuracy over a task's questions, with 95 % intervals.

    Answers go to a file one by one: the same command goes on where a killed run ended. On several
    GPUs: accelerate launch --no_python svd-vlm eval ...

    Example:  svd-vlm eval --task scout --selectors svd,random --visual-tokens 576,64,16
    """
    if table is not None or (report is not None and not task):
        if task or (table and report):
            raise typer.BadParameter("--table, and --report without --task, run nothing")
        _show(table or report, report is not None, as_json)  # type: ignore[arg-type]
        return
    if not task:
        raise typer.BadParameter("name a task: --task scout, gqa or textvqa")
    if out is None:
        out = report or Path(f"eval-{task}-{model.strip('/').split('/')[-1].replace(':', '-')}")

    run = plan_run(
        task=task,
        model=model,
        precision=precision,
        selectors=selectors,
        visual_tokens=visual_tokens,
        images=images,
        data=data,
        ocr=ocr,
        out=out,
        corruptions=corruptions,
        severities=severities,
        rephrase=rephrase,
        times=(3 if report else 0) if times is None else times,
        seed=seed,
        device=device,
    )
    if not _answer(run):
        return
    if report is not None:
        _write_report(run.out, report)
    _print_tables(run.out, as_json)


def _answer(run: "Run") -> bool:
    """Run this process's share. Returns whether it is the one to show what came out."""
    from svd_vlm_ros.evaluation.finishing import finish
    from svd_vlm_ros.evaluation.runner import run_shard

    begun = time.time()
    try:
        with _progress(run.rank == 0) as on_step:
            folder, cells = run_shard(run, on_step)
    except KeyboardInterrupt:
        print_warning(f"Interrupted; all answers are in {run.out}: the same command goes on.")
        raise typer.Exit(INTERRUPTED) from None
    if run.rank == 0:
        for sentence in folder.warnings():
            print_warning(sentence)
    questions = {item.id: item.image for item in run.task.items}
    ending = finish(run.out, cells, questions, begun)
    if ending.lacking:
        print_warning(
            f"Share {run.rank + 1} of {run.world} is done; {ending.lacking} answers of other "
            f"shares are not in {run.out} yet."
        )
    return not ending.lacking and not ending.reported


def _show(folder: Path, report: bool, as_json: bool) -> None:
    """Make the tables, and the report if it is wanted, of answers that are there."""
    from svd_vlm_ros.evaluation.finishing import open_results, write_tables

    write_tables(folder, open_results(folder))
    if report:
        _write_report(folder, folder)
    if not report or as_json:
        _print_tables(folder, as_json)


def _print_tables(out: Path, as_json: bool) -> None:
    from svd_vlm_ros.evaluation.finishing import open_results
    from svd_vlm_ros.evaluation.tables import as_json as figures
    from svd_vlm_ros.evaluation.tables import markdown

    folder = open_results(out)
    if as_json:
        print_json(figures(folder))
    else:
        print(markdown(folder), end="")


def _write_report(out: Path, target: Path) -> None:
    from svd_vlm_ros.evaluation.finishing import open_results
    from svd_vlm_ros.evaluation.report import write_report

    path = target / "report.html"
    write_report(out, open_results(out), path)
    stderr().print(f"report: {path}", soft_wrap=True)


def _lines(clock: Callable[[], float] = time.monotonic) -> Callable[[str, int, int], None]:
    """What shows progress in a log: a line when a cell's first image is begun, and then at most one
    every `LOG_EVERY` seconds, since every image goes through all cells.
    """
    console, named, last = stderr(), set[str](), clock()

    def on_step(what: str, done: int, total: int) -> None:
        nonlocal last
        if what and (what not in named or clock() - last >= LOG_EVERY):
            named.add(what)
            last = clock()
            console.print(f"{what}: {done} of {total or '?'} answers")

    return on_step


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr; where that is no terminal, lines. Yields the function that moves it."""
    console = stderr()
    if not shown:
        yield lambda what, done, total: None
        return
    if not console.is_terminal:
        yield _lines()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("answers"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=None)

        def on_step(what: str, done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total or None)
            if what:
                progress.update(bar, description=what)

        yield on_step
