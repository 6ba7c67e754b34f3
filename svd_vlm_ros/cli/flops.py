# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm flops`: operations of one image, as the paper counts them and as computed."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

from typing import TYPE_CHECKING, Annotated, Any

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import print_json, stdout

if TYPE_CHECKING:
    from svd_vlm_ros.planning.flops import Work


def flops(
    model: Annotated[
        str,
        typer.Option(help="llava-1.5-7b, llava-1.5-13b, scout, or a folder with a config.json."),
    ] = "llava-1.5-7b",
    visual_tokens: Annotated[
        str,
        typer.Option("--visual-tokens", metavar="N,N,...", help="Numbers of visual tokens kept."),
    ] = "576,192,128,64,32,16",
    text_tokens: Annotated[
        float,
        typer.Option("--text-tokens", min=0, help="Tokens of prompt and question."),
    ] = 49.75,
    as_json: options.AsJson = False,
) -> None:
    """Count the operations of one image and question: as in the paper's Table 2, and as computed.

    Both count multiply-accumulates (a chip's FLOP/s count each as two). The paper takes 24 layers
    of the tower, two of the three matrices of the language model's MLP and no output head; the
    true count has 23 layers, all three, and the head.

    Example:  svd-vlm flops --model llava-1.5-13b --visual-tokens 576,64,16
    """
    from svd_vlm_ros.planning.flops import paper_work, true_work
    from svd_vlm_ros.planning.shapes import find_llava

    sizes = find_llava(model)
    tokens = _read_tokens(visual_tokens)
    full = sizes.tower.patches
    bases = {
        name: count(sizes, full, text_tokens).total
        for name, count in (("paper", paper_work), ("true", true_work))
    }
    rows = []
    for kept in tokens:
        row: dict[str, Any] = {"visual_tokens": kept}
        for name, count in (("paper", paper_work), ("true", true_work)):
            row[name] = _record(count(sizes, kept, text_tokens), bases[name])
        rows.append(row)
    record = {"model": model, "text_tokens": text_tokens, "unit": "MAC", "rows": rows}
    if as_json:
        print_json(record)
    else:
        _print(record)


def _read_tokens(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is no list of numbers such as 576,64,16") from error


def _record(work: "Work", base: float) -> dict[str, float]:
    return {
        "vision": work.vision,
        "projector": work.projector,
        "language": work.language + work.head,
        "total": work.total,
        "reduction_percent": 100 * (1 - work.total / base),
    }


def _print(record: dict[str, Any]) -> None:
    from rich.table import Table

    console = stdout()
    for name, title in (
        ("paper", "As the paper counts (its Table 2)"),
        ("true", "As computed (used layers, all matrices, output head)"),
    ):
        # Small models need smaller units.
        unit, letter = (1e9, "G") if record["rows"][0][name]["total"] >= 1e10 else (1e6, "M")
        table = Table(title=f"{record['model']}: {title}", title_justify="left")
        table.add_column("tokens", justify="right")
        for part in ("vision", "projector", "language", "total"):
            table.add_column(f"{part} [{letter}MAC]", justify="right")
        table.add_column("saved [%]", justify="right")
        for row in record["rows"]:
            work = row[name]
            table.add_row(
                str(row["visual_tokens"]),
                *(
                    f"{work[part] / unit:,.3f}"
                    for part in ("vision", "projector", "language", "total")
                ),
                f"{work['reduction_percent']:.2f}",
            )
        console.print(table)
