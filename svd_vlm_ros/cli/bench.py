# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm bench`: what selection, precision and reuse are worth on this machine."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from svd_vlm_ros.bench import STOCK
from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import print_json, print_warning, stderr, stdout
from svd_vlm_ros.cli.processes import environment
from svd_vlm_ros.defaults import SELECTOR
from svd_vlm_ros.errors import UserError

PRECISIONS = [precision.value for precision in options.Precision]
NO_STOCK = "none"


def bench(
    model: options.Model = "random:llava-1.5-7b",
    precision: Annotated[
        str,
        typer.Option(
            metavar="P,P,...",
            help="One or more of auto, fp32, bf16, fp16, int8, int4; each runs in a process of its "
            "own.",
        ),
    ] = "auto",
    stock: Annotated[
        str,
        typer.Option(
            metavar="P",
            help="Precision of transformers' generate that all is compared with; auto: its fastest "
            "here; none: none.",
        ),
    ] = "auto",
    rows: Annotated[
        str,
        typer.Option(
            metavar="R,R,...",
            help="stock (transformers' generate with all tokens) and numbers of visual tokens; "
            "empty: all, 192, 128, 64, 32 and 16, and stock in its fastest precision.",
        ),
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the rows take turns.")] = 3,
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", min=2, help="Tokens written for each answer.")
    ] = 16,
    image: Annotated[
        str,
        typer.Option(
            metavar="WxH",
            help="Size of the image, such as 1280x720; empty: a square of the model's own size, or "
            "640x480 if it takes images of any size.",
        ),
    ] = "",
    selector: options.SelectorName = SELECTOR,
    tables: Annotated[
        str, typer.Option(metavar="T,T,...", help="answers, questions, selectors, or some of them.")
    ] = "answers,questions,selectors",
    device: options.Device = "auto",
    cpu_threads: Annotated[
        int, typer.Option("--cpu-threads", min=0, help="Threads of torch; 0: as they are.")
    ] = 0,
    save: Annotated[
        options.MaybePath,
        typer.Option("--save", metavar="PATH", help="Also write PATH.md and PATH.json."),
    ] = None,
    as_json: options.AsJson = False,
    part: Annotated[
        bool, typer.Option("--part", hidden=True, help="One of several processes of this command.")
    ] = False,
) -> None:
    """Measure answers, further questions and selectors, against transformers' generate.

    Stock and engine share one set of weights; the rows take turns over several rounds, and medians
    with their spread are shown beside the limits of this machine, measured in the same run.
    `random:llava-1.5-7b` needs no download and as much time and memory as the real one.

    Example:  svd-vlm bench --model random:llava-1.5-7b --precision bf16,int4 --save bench
    """
    precisions = list(dict.fromkeys(part.strip() for part in precision.split(",")))
    for each in (*precisions, *([stock] if stock != NO_STOCK else [])):
        if each not in PRECISIONS:
            raise typer.BadParameter(
                f"there is no precision '{each}': take one of {', '.join(PRECISIONS)}"
            )
    from svd_vlm_ros.bench.run import BenchSettings

    asked = precisions
    if options.Precision.AUTO.value in (*precisions, stock):
        precisions, stock = _resolve(model, device, cpu_threads, precisions, stock)
    chosen = {
        "--model": model,
        "--rows": rows,
        "--rounds": rounds,
        "--answer-tokens": answer_tokens,
        "--image": image,
        "--selector": selector,
        "--tables": tables,
        "--device": device,
        "--cpu-threads": cpu_threads,
        "--stock": stock,
    }
    chosen = {name: value for name, value in chosen.items() if value != ""}
    words = [word for name, value in chosen.items() for word in (name, str(value))]
    command = shlex.join(["svd-vlm", "bench", *words, "--precision", ",".join(asked)])
    # All of them, so that a mistake is found before anything was measured.
    settings = {
        each: BenchSettings(
            *(model, each, device, cpu_threads, rows, rounds, answer_tokens),
            *(selector, tables, stock, image),
        )
        for each in precisions
    }
    records: list[dict[str, Any]] = []
    try:
        with_stock = part or rows or stock in (*precisions, NO_STOCK)
        alone = [] if with_stock else [stock]
        for each in alone:  # what all is compared with, and nothing else of that precision
            more = ["--precision", each, "--rows", STOCK, "--tables", "answers"]
            _in_a_process([*words, *more], records)
        for each in precisions:
            if len(precisions) + len(alone) > 1:
                _in_a_process([*words, "--precision", each], records)
            else:
                from svd_vlm_ros.bench.run import measure

                records.append({})
                with _progress(each) as watch:
                    measure(settings[each], watch, records[0])
            _save(save, records, command)  # a later precision may fail
    finally:
        # What was measured before something failed is shown all the same: it took minutes.
        records = [record for record in records if record]
        if records:
            _save(save, records, command)
            if as_json:
                print_json(records[0] if len(records) == 1 else records)
            else:
                _print(records)


def _resolve(
    model: str, device: str, cpu_threads: int, precisions: list[str], stock: str
) -> tuple[list[str], str]:
    """Precisions in place of "auto", ours and that of transformers alone."""
    import torch

    from svd_vlm_ros.bench.stock import stock_precision
    from svd_vlm_ros.models import find_sizes
    from svd_vlm_ros.models.loading import resolve_device
    from svd_vlm_ros.models.weights.precision_choice import AUTO, choose_precision

    if cpu_threads:
        torch.set_num_threads(cpu_threads)
    sizes, place = find_sizes(model), resolve_device(device)
    found = [
        choose_precision(each, sizes, place).precision if each == AUTO else each
        for each in precisions
    ]
    return list(dict.fromkeys(found)), stock_precision(sizes, place) if stock == AUTO else stock


# Paths among its arguments are relative to the current folder, so it runs there; but a checkout in
# that folder would hide the installed package, which has the kernels.
_BENCH = "import sys; sys.path.remove(''); from svd_vlm_ros.cli.main import main; main()"


def _in_a_process(words: list[str], records: list[dict[str, Any]]) -> None:
    """Measure one precision in a process of its own, so that none counts another's memory."""
    done = subprocess.run(
        [sys.executable, "-c", _BENCH, "bench", *words, "--json", "--part"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        check=False,
    )
    if done.stdout.strip():
        records.append(json.loads(done.stdout))
    if done.returncode != 0:
        raise UserError(f"A measurement ({' '.join(words[-2:])}) ended early: see above.")


def _save(path: Path | None, records: list[dict[str, Any]], command: str) -> None:
    """Write what there is so far."""
    from svd_vlm_ros.bench.report import add_speedups, markdown

    add_speedups(records)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"command": command, "records": records}, indent=2)
        path.with_name(path.name + ".json").write_text(text + "\n", encoding="utf-8")
        path.with_name(path.name + ".md").write_text(markdown(records, command), encoding="utf-8")
    except OSError as error:
        # The figures took minutes: they are shown all the same.
        print_warning(f"the tables can't be written to {path} ({error.strerror})")


def _print(records: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from svd_vlm_ros.bench.report import tables

    console = stdout()
    for table in tables(records):
        shown = Table(title=table.title, title_justify="left", box=None, pad_edge=False)
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if number else "left")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in table.notes:
            console.print(note, style="dim")
        console.print()


@contextmanager
def _progress(precision: str) -> Iterator[Callable[[int], Callable[[str], None]]]:
    """A progress bar on stderr, on a terminal; it says what is being measured."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=stderr(), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(f"{precision}: loading", total=None)

        def watch(steps: int) -> Callable[[str], None]:
            bar.update(task, total=steps)

            def step(words: str) -> None:
                bar.update(task, advance=1, description=f"{precision}: {words}")

            return step

        yield watch
