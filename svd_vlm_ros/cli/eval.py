# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm eval`: selectors compared on GQA, TextVQA or scout, as the papers compare them."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import print_json, print_warning, stderr
from svd_vlm_ros.errors import UserError

if TYPE_CHECKING:
    from svd_vlm_ros.evaluation.runner import Run

PRECISIONS = tuple(precision.value for precision in options.Precision)
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
    pictures: Annotated[
        int,
        typer.Option(
            "--pictures",
            "--limit",
            min=0,
            help="Only the first so many pictures. 0: all; of scout 100.",
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
            "--corruptions", metavar="A,B|all", help="Also ask about corrupted pictures: fog, ..."
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
            help="Pictures to time in each cell, one question alone; by default 3 with --report.",
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

    run = _plan(
        task=task,
        model=model,
        precision=precision,
        selectors=selectors,
        visual_tokens=visual_tokens,
        pictures=pictures,
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


def _plan(
    *,
    task: str,
    model: str,
    precision: str,
    selectors: str,
    visual_tokens: str,
    pictures: int,
    data: Path | None,
    ocr: bool,
    out: Path,
    corruptions: str,
    severities: str,
    rephrase: bool,
    times: int,
    seed: int,
    device: str,
) -> "Run":
    """Check everything that can be checked before a model is loaded."""
    budgets = tuple(_whole_numbers(visual_tokens, "--visual-tokens", 1, 1_000_000))
    levels = _whole_numbers(severities, "--severities", 1, 5)
    precisions = tuple(_names(precision, "--precision", PRECISIONS))

    from svd_vlm_ros.evaluation.cells import CLEAN, REPHRASED, condition_of
    from svd_vlm_ros.evaluation.corruptions import CORRUPTIONS
    from svd_vlm_ros.evaluation.finishing import weights_hash
    from svd_vlm_ros.evaluation.runner import Run
    from svd_vlm_ros.evaluation.tasks import open_task
    from svd_vlm_ros.selection import selector_names

    chosen = _names(selectors, "--selectors", selector_names())
    spoiled = _names(corruptions, "--corruptions", list(CORRUPTIONS)) if corruptions else []
    conditions = [CLEAN, *(condition_of(name, level) for name in spoiled for level in levels)]
    rank, world = _place()
    if world > 1 and device == "auto":
        device = _own_device()
    opened = open_task(task, data, pictures=pictures, ocr=ocr)
    if rank == 0:
        _warn_of_gaps(opened.missing, opened.left_out, opened.notes)
    return Run(
        task=opened,
        model=model,
        precisions=precisions,
        selectors=tuple(chosen),
        budgets=budgets,
        conditions=(*conditions, *([REPHRASED] if rephrase else [])),
        out=out,
        weights=weights_hash(model),
        device=device,
        seed=seed,
        times=times,
        rank=rank,
        world=world,
    )


def _answer(run: "Run") -> bool:
    """Run this process's share. Returns whether it is the one to show what came out."""
    from svd_vlm_ros.evaluation.finishing import finish
    from svd_vlm_ros.evaluation.runner import run_shard

    begun = time.time()
    try:
        with _progress(run.rank == 0) as told:
            folder, cells = run_shard(run, told)
    except KeyboardInterrupt:
        print_warning(f"Interrupted; all answers are in {run.out}: the same command goes on.")
        raise typer.Exit(INTERRUPTED) from None
    if run.rank == 0:
        for sentence in folder.warnings():
            print_warning(sentence)
    questions = {item.id: item.picture for item in run.task.items}
    ending = finish(run.out, cells, questions, begun)
    if ending.lacking:
        print_warning(
            f"Share {run.rank + 1} of {run.world} is done; {ending.lacking} answers of other "
            f"shares are not in {run.out} yet."
        )
    return not ending.lacking and not ending.told


def _show(folder: Path, report: bool, as_json: bool) -> None:
    """Make the tables, and the report where it is wanted, of answers that are there."""
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


def _names(text: str, option: str, known: Any) -> list[str]:
    """Names parted by commas, each once; "all": all that are known."""
    if text.strip() == "all":
        return list(known)
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"{option} knows no '{name}': take of {', '.join(known)}.")
    return names


def _whole_numbers(text: str, option: str, lowest: int, highest: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(lowest <= number <= highest for number in numbers):
        raise typer.BadParameter(f"{option} takes whole numbers from {lowest} on, with commas")
    return list(dict.fromkeys(numbers))


def _place() -> tuple[int, int]:
    """This process's number and how many there are, as `accelerate launch` and torchrun say."""
    try:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0")) if world > 1 else 0
    except ValueError:
        raise UserError("RANK and WORLD_SIZE must be whole numbers.") from None
    if not 0 <= rank < world:
        raise UserError(f"RANK {rank} is not one of WORLD_SIZE {world} processes.")
    return rank, world


def _own_device() -> str:
    """A GPU of this machine for each process; the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def _warn_of_gaps(missing: tuple[str, ...], left_out: int, notes: tuple[str, ...]) -> None:
    from svd_vlm_ros.evaluation.tasks import some_of

    for note in notes:
        print_warning(note)
    if missing:
        print_warning(
            f"{len(missing)} pictures are missing ({some_of(missing)}): their {left_out} questions "
            "are not asked."
        )


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, on a terminal only. Yields the function that moves it."""
    console = stderr()
    if not shown or not console.is_terminal:
        yield lambda what, done, total: None
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

        def told(what: str, done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total or None)
            if what:
                progress.update(bar, description=what)

        yield told
