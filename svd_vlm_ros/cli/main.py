# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm`: the door to all commands; turns a `UserError` into one line and exit status 1.

Exit statuses: 0 it worked; 1 it failed, with one line on stderr; 2 wrong usage.
"""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from svd_vlm_ros import __version__
from svd_vlm_ros.cli import annotate, ask, bench, demo, describe, doctor, download, flops, plan
from svd_vlm_ros.cli import eval as eval_command
from svd_vlm_ros.cli import export as export_commands
from svd_vlm_ros.cli.console import print_error
from svd_vlm_ros.cli.spelling import with_nearest
from svd_vlm_ros.errors import UserError


class Commands(TyperGroup):
    """A group of commands whose mistakes end in one clear line, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; a `UserError` goes to stderr and ends with status 1."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            print_error(with_nearest(str(error)))
            raise typer.Exit(1) from error


app = typer.Typer(
    name="svd-vlm",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("annotate")(annotate.annotate)
app.command("ask")(ask.ask)
app.command("describe")(describe.describe)
app.command("bench")(bench.bench)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("download")(download.download)
app.command("eval")(eval_command.evaluate)
app.command("flops")(flops.flops)
app.command("plan")(plan.plan)
app.add_typer(export_commands.app, name="export")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"svd-vlm {__version__}")
        raise typer.Exit


@app.callback(epilog="Example:  svd-vlm ask photo.jpg 'is the path clear?'")
def svd_vlm(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Ask a robot's cameras questions: LLaVA with SVD-Prune and quantized weights."""


def typer_trouble(typer_version: str, click_version: str | None) -> str:
    """Why this typer can't work with this click, and what to do; "" if it can.

    Ubuntu's typer (0.9 in 24.04) and the click that pip's huggingface_hub brings meet in a virtual
    environment that sees the system's packages.
    """
    if click_version is None or _numbers(click_version) < (8, 2):
        return ""
    if _numbers(typer_version) >= (0, 16):
        return ""
    return (
        f"typer {typer_version} does not work with click {click_version}: "
        "python3 -m pip install 'typer>=0.16'"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def main() -> None:
    """Run `svd-vlm`; the console script and `python -m svd_vlm_ros.cli.main` come here."""
    try:
        click_version = metadata.version("click")
    except metadata.PackageNotFoundError:
        click_version = None
    if trouble := typer_trouble(typer.__version__, click_version):
        print_error(trouble)
        sys.exit(1)
    app(prog_name="svd-vlm")


if __name__ == "__main__":
    main()
