# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm export`: models as ONNX graphs, checked against torch, and scripts for TensorRT."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import gigabytes, print_json, print_warning, stderr, stdout
from svd_vlm_ros.errors import UserError

if TYPE_CHECKING:
    from svd_vlm_ros.export.verify import Report


class ExportPrecision(str, Enum):
    """What the decoder's linear layers are made of."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"


class Activations(str, Enum):
    """What activations and cache are made of."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"


Exported = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder that 'svd-vlm export onnx' made.")
]

app = typer.Typer(no_args_is_help=True, help="Leave PyTorch: ONNX graphs, TensorRT.")


@app.command("onnx")
def onnx(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder to make: absent or empty.")
    ],
    model: options.Model = "scout",
    precision: Annotated[
        ExportPrecision,
        typer.Option(
            "--precision", help="Of the language model's weights; int8 and int4 for CPUs."
        ),
    ] = ExportPrecision.FP32,
    activations: Annotated[
        Activations,
        typer.Option(
            "--activations",
            help="float16: int8 or int4 for a GPU; auto: float32, or float16 with fp16.",
        ),
    ] = Activations.AUTO,
    as_json: options.AsJson = False,
) -> None:
    """Write a model as ONNX graphs, which run without PyTorch.

    Weights are read, quantized and written one by one, so that a large model needs little memory.
    The folder appears when all of it is written; an export that is interrupted leaves nothing.

    Example:  svd-vlm export onnx --model llava-hf/llava-1.5-7b-hf --precision int4 --out llava
    """
    from svd_vlm_ros.export import export_onnx
    from svd_vlm_ros.onnx_runtime.manifest import Manifest

    begun = time.perf_counter()
    with _bar() as step:
        export_onnx(
            model, out, precision=precision.value, activations=activations.value, on_progress=step
        )
    seconds = time.perf_counter() - begun
    # Kilobytes on Linux, of this process since it began.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    manifest = Manifest.read(out, checksums=False)
    size = sum(int(each["bytes"]) for each in manifest.files.values())
    record = {
        "model": model,
        "precision": precision.value,
        "out": str(out),
        "bytes": size,
        "seconds": seconds,
        "peak_bytes": peak,
    }
    if as_json:
        print_json(record)
        return
    console = stdout()
    console.print(
        f"{out}: {model} in {precision.value}, {gigabytes(size)}, written in {seconds:.0f} s with "
        f"at most {gigabytes(peak)} of memory.",
        soft_wrap=True,
    )
    if manifest.random_weights:
        print_warning(f"{model} has random weights: its answers are noise.")
    console.print(f"check it:  svd-vlm export verify {out}", soft_wrap=True)


@app.command("verify")
def verify(
    folder: Exported,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="[IMAGE]...", help="Images to look at; none: scenes of scout's world."
        ),
    ] = [],  # noqa: B006 - typer 0.9 knows no factory for arguments
    question: Annotated[
        list[str],
        typer.Option("--question", help="To ask about each image; may be given several times."),
    ] = [],  # noqa: B006
    selector: Annotated[
        str,
        typer.Option(
            "--selector", help="What chooses the patches.", show_default="as the export says"
        ),
    ] = "",
    visual_tokens: Annotated[
        int,
        typer.Option(
            "--visual-tokens", min=0, help="Patches to keep.", show_default="as the export says"
        ),
    ] = 0,
    reference: Annotated[
        options.Precision,
        typer.Option(
            "--reference", help="Precision of PyTorch's side; auto: fp32 if it fits into memory."
        ),
    ] = options.Precision.AUTO,
    as_json: options.AsJson = False,
) -> None:
    """Compare an export with its model in PyTorch: features, kept patches, logits, answers.

    Ends with status 1 if something is further off than its precision explains.

    Example:  svd-vlm export verify llava photo.jpg --question 'is the path clear?'
    """
    from svd_vlm_ros.export.verify import verify as compare
    from svd_vlm_ros.images.disk import read_image

    asked = question or ["what is the ground?", "is the path clear?", "describe the scene."]
    pixels = [read_image(path) for path in images] or _scenes()
    with _bar() as step:
        report = compare(
            folder,
            pixels,
            asked,
            selector=selector,
            visual_tokens=visual_tokens,
            reference=reference.value,
            on_progress=step,
        )
    if as_json:
        print_json(_record(report))
    else:
        _print(report)
    if not report.agrees:
        worst = ", ".join(row.what for row in report.rows if not row.agrees)
        raise UserError(f"The export differs from {report.model} in PyTorch: {worst}.")


@app.command("tensorrt")
def tensorrt(
    folder: Exported,
    context: Annotated[
        int, typer.Option("--context", min=16, help="The most tokens of image, question, answer.")
    ] = 1024,
    version: Annotated[
        int,
        typer.Option("--tensorrt", min=10, max=11, help="The TensorRT on the module: 10 or 11."),
    ] = 10,
    workspace: Annotated[
        int, typer.Option("--workspace", min=64, help="Memory for building, in MiB.")
    ] = 2048,
    build: Annotated[
        bool, typer.Option("--build", help="Also run it, here: trtexec must be on this machine.")
    ] = False,
) -> None:
    """Write the script that builds TensorRT engines of an export, and a README beside it.

    Engines fit one GPU and one version of TensorRT: copy the folder to the module, and build there.

    Example:  svd-vlm export tensorrt llava --context 768
    """
    from svd_vlm_ros.export.tensorrt import build as build_engines
    from svd_vlm_ros.export.tensorrt import write_tensorrt

    script = write_tensorrt(folder, context=context, version=version, workspace=workspace)
    console = stdout()
    console.print(f"{script}: builds the engines, on the module.", soft_wrap=True)
    console.print(f"{script.with_name('README.md')}: what it does.", soft_wrap=True)
    if build:
        build_engines(script)


def _scenes() -> list[Any]:
    """Two scenes of scout's world that its training never saw."""
    from svd_vlm_ros.scout.render import render
    from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene

    return [render(sample_scene(seed)) for seed in HELD_OUT_SEEDS[:2]]


def _record(report: "Report") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(report), "agrees": report.agrees}


def _print(report: "Report") -> None:
    from rich.table import Table

    console = stdout()
    title = (
        f"{report.model} in {report.precision} by onnxruntime, beside {report.reference} by "
        f"PyTorch: {report.images} images, {report.questions} questions"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for column in ("found", "allowed"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    table.add_column("in", style="dim")
    for row in report.rows:
        verdict = "agrees" if row.agrees else "differs"
        table.add_row(row.what, f"{row.found:.2g}", f"{row.allowed:.2g}", verdict, row.unit)
    console.print(table)
    if report.agrees:
        console.print("The export agrees with the model.")


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], object]]:
    """A progress bar on stderr, on a terminal only. Yields what steps are reported to."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = stderr()
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def step(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield step
