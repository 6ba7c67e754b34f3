# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm flops`: operations of one image, as the paper counts them and as computed."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import print_json, stdout
from svd_vlm_ros.cli.planned import (
    DEFAULT_IMAGE,
    ImageSize,
    PlannedModel,
    find_model,
    parse_image,
)

if TYPE_CHECKING:
    from svd_vlm_ros.planning.flops import Work


def flops(
    model: PlannedModel = "llava-1.5-7b",
    visual_tokens: Annotated[
        str,
        typer.Option(
            "--visual-tokens",
            metavar="N,N,...",
            help="Numbers of visual tokens kept; if not given: all, and those of the paper.",
        ),
    ] = "",
    text_tokens: Annotated[
        float,
        typer.Option("--text-tokens", min=0, help="Tokens of prompt and question."),
    ] = 49.75,
    image: ImageSize = DEFAULT_IMAGE,
    as_json: options.AsJson = False,
) -> None:
    """Count the operations of one image and question: as in the paper's Table 2, and as computed.

    Both count multiply-accumulates (a chip's FLOP/s count each as two). The paper takes all layers
    of the tower, two of the three matrices of the language model's MLP and no output head; the
    true count has the layers that are used (of LLaVA's 24: 23), all three, and the head.

    Example:  svd-vlm flops --model llava-1.5-13b --visual-tokens 576,64,16
    """
    from svd_vlm_ros.planning.flops import PAPER_TOKENS, paper_work, true_work
    from svd_vlm_ros.planning.known import find_sizes

    sizes, size = find_sizes(find_model(model)), parse_image(image)
    view = sizes.view(size)
    fewer = [tokens for tokens in PAPER_TOKENS if tokens < view.tokens]
    tokens = _read_tokens(visual_tokens) if visual_tokens else [view.tokens, *fewer]
    bases = {
        name: count(sizes, view.tokens, text_tokens, size).total
        for name, count in (("paper", paper_work), ("true", true_work))
    }
    rows = []
    for kept in tokens:
        row: dict[str, Any] = {"visual_tokens": kept}
        for name, count in (("paper", paper_work), ("true", true_work)):
            row[name] = _record(count(sizes, kept, text_tokens, size), bases[name])
        rows.append(row)
    record = {
        "model": model,
        "image": image,
        **asdict(view),
        "text_tokens": text_tokens,
        "unit": "MAC",
        "rows": rows,
    }
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
    console.print(
        f"An image of {record['image']}: {record['patches']} patches in {record['tiles']} "
        f"tile{'s' if record['tiles'] > 1 else ''} are encoded, whatever is kept."
    )
