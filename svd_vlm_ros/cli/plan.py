# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm plan`: does a model fit on a Jetson or on this machine, and how fast is it."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import gigabytes, milliseconds, print_json, stdout
from svd_vlm_ros.cli.plan_here import THIS, plan_here, show
from svd_vlm_ros.cli.planned import (
    DEFAULT_IMAGE,
    ImageSize,
    PlannedModel,
    find_model,
    in_words,
    parse_image,
)

if TYPE_CHECKING:
    from svd_vlm_ros.planning.plan import Deployment, Plan


def plan(
    device: Annotated[
        str,
        typer.Option(
            help="A module, such as orin-nx-16 (--all shows every one); this or cpu: the CPU "
            "of this machine, by timing one layer."
        ),
    ] = "",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8 or int4.")] = "int4",
    visual_tokens: Annotated[
        int, typer.Option("--visual-tokens", min=1, help="Visual tokens kept of each image.")
    ] = 64,
    model: PlannedModel = "llava-1.5-7b",
    image: ImageSize = DEFAULT_IMAGE,
    cameras: Annotated[int, typer.Option(min=1, help="Cameras that are watched in turn.")] = 1,
    text_tokens: Annotated[
        int, typer.Option("--text-tokens", min=1, help="Tokens of prompt and question.")
    ] = 50,
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", min=1, help="Tokens written for each image.")
    ] = 16,
    software: Annotated[
        str,
        typer.Option(
            help="engine: compiled, fused low-bit kernels. eager: PyTorch with bitsandbytes, "
            "without CUDA graphs."
        ),
    ] = "engine",
    desktop: Annotated[bool, typer.Option("--desktop", help="A desktop runs beside it.")] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Every module in every precision, with all tokens down to 16."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Hold the model against published measurements.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Plan a deployment on a Jetson or on this CPU: memory, time to first token, tokens/s.

    For a Jetson nothing is measured: times are a roofline at the efficiencies that others'
    measurements show (--check prints the error of each). For this CPU one layer is timed in each
    precision. Nothing is fetched. Estimates are marked with ~.

    Example:  svd-vlm plan --device orin-nx-16 --precision int4 --visual-tokens 16 --cameras 3
    """
    from svd_vlm_ros.planning.plan import Deployment, make_plan, matrix

    if not (device or everything or check):
        raise typer.BadParameter("give --device, --all or --check")
    if device in THIS and not (everything or check):
        found = plan_here(
            find_model(model), visual_tokens, text_tokens, answer_tokens, parse_image(image)
        )
        show(found, as_json)
        return
    wanted = Deployment(
        device=device or "agx-orin-64",
        precision=precision,
        visual_tokens=visual_tokens,
        model=find_model(model),
        image=parse_image(image),
        cameras=cameras,
        text_tokens=text_tokens,
        answer_tokens=answer_tokens,
        software=software,
        desktop=desktop,
    )
    if check:
        _check(as_json)
    elif everything:
        _matrix(wanted, matrix(wanted), as_json)
    else:
        made = make_plan(wanted)
        print_json(_record(made)) if as_json else _print(made)


def _record(made: "Plan") -> dict[str, Any]:
    return {
        **asdict(made.deployment),
        "image": in_words(made.deployment.image),
        "view": asdict(made.view),
        "fits": made.fits,
        "bytes": {part.name: round(part.bytes) for part in made.parts},
        "estimates": [part.name for part in made.parts if part.estimate] + ["select"],
        "needed_bytes": round(made.needed_bytes),
        "capacity_bytes": round(made.capacity_bytes),
        "seconds": {
            "vision": made.vision,
            "select": made.select,
            "project": made.project,
            "prefill": made.prefill,
            "first_token": made.first_token,
            "token": made.token,
            "answer": made.answer,
            "camera_period": made.camera_period,
        },
        "tokens_per_second": 1 / made.token,
        "limit": made.limit,
        "token_limit": made.token_limit,
        "rate_is_estimate": made.device.rate_is_estimate,
        "source": made.device.source,
        "measured": [
            {
                "what": m.what,
                "device": m.device,
                "software": m.program,
                "tokens_per_second": 1 / m.seconds,
                "used_bytes": m.used_bytes or None,
                "source": m.source,
            }
            for m in made.measured
        ],
        "advice": made.advice,
    }


def _print(made: "Plan") -> None:
    from rich.table import Table

    from svd_vlm_ros.planning.devices import DEVICES

    wanted, console = made.deployment, stdout()
    words = {"yes": "It fits", "tight": "It fits tightly", "no": "It does not fit"}[made.fits]
    console.print(
        f"{wanted.model} in {wanted.precision} with {wanted.visual_tokens} of {made.view.tokens} "
        f"visual tokens on {made.device.name}, {wanted.cameras} "
        f"camera{'s' if wanted.cameras > 1 else ''} of {in_words(wanted.image)}"
    )
    console.print(
        f"{words}: {gigabytes(made.needed_bytes)} of {gigabytes(made.capacity_bytes)}.",
        style="bold",
    )
    memory = Table(box=None, show_header=False, pad_edge=False)
    memory.add_column()
    memory.add_column(justify="right")
    for part in made.parts:
        memory.add_row(f"  {part.name}", ("~" if part.estimate else "") + gigabytes(part.bytes))
    console.print(memory)
    if made.fits != "no":
        times = Table(box=None, show_header=False, pad_edge=False)
        times.add_column()
        times.add_column(justify="right")
        times.add_column()
        for name, seconds, note in (
            ("vision", made.vision, f"{made.view.patches} patches, whatever is kept"),
            ("selection", made.select, "estimate"),
            ("projector", made.project, ""),
            ("image and question read", made.prefill, ""),
            ("first token after", made.first_token, f"limited by {made.limit}"),
            ("each token", made.token, f"{1 / made.token:.1f} tokens/s, by {made.token_limit}"),
            (
                f"answer of {wanted.answer_tokens} tokens",
                made.answer,
                f"{1 / made.answer:.2f} a s",
            ),
        ):
            times.add_row(f"  {name}", f"~{milliseconds(seconds)}", note)
        if wanted.cameras > 1:
            times.add_row("  each camera again after", f"~{milliseconds(made.camera_period)}")
        console.print(
            f"Time, calculated for software of the kind '{wanted.software}':", style="bold"
        )
        console.print(times)
    for m in made.measured:
        used = f" in {gigabytes(m.used_bytes)}" if m.used_bytes else ""
        console.print(
            f"Measured by others on {DEVICES[m.device].name}: {m.shown}{used}, {m.what} "
            f"({m.program}; {m.source})"
        )
    console.print(f"What would help: {made.advice}")


def _matrix(wanted: "Deployment", plans: "list[Plan]", as_json: bool) -> None:
    from rich.table import Table

    if as_json:
        print_json([_record(made) for made in plans])
        return
    tokens = sorted({made.deployment.visual_tokens for made in plans}, reverse=True)
    table = Table(
        title=f"{wanted.model}, images of {in_words(wanted.image)}, {wanted.software}: time to "
        "first token by visual tokens (calculated)",
        title_justify="left",
        caption="-: does not fit. ~: tight. GB and tokens/s: with the fewest visual tokens.",
        caption_justify="left",
    )
    table.add_column("module", no_wrap=True)
    table.add_column("weights")
    table.add_column("GB", justify="right")
    for count in tokens:
        table.add_column(str(count), justify="right")
    table.add_column("tokens/s", justify="right")
    rows: dict[tuple[str, str], list[Plan]] = {}
    for made in plans:
        rows.setdefault((made.device.key, made.deployment.precision), []).append(made)
    before = ""
    for (module, precision), cells in rows.items():
        smallest = min(cells, key=lambda made: made.deployment.visual_tokens)
        table.add_row(
            module if module != before else "",
            precision,
            f"{smallest.needed_bytes / 1e9:.1f} of {smallest.capacity_bytes / 1e9:.0f}",
            *(_cell(made) for made in cells),
            "-" if smallest.fits == "no" else f"{1 / smallest.token:.1f}",
        )
        before = module
    console = stdout()
    console.print(table)
    console.print("How near this is to published measurements:  svd-vlm plan --check")


def _cell(made: "Plan") -> str:
    if made.fits == "no":
        return "-"
    mark = "~" if made.fits == "tight" else ""
    return mark + milliseconds(made.first_token)


def _check(as_json: bool) -> None:
    from rich.table import Table

    from svd_vlm_ros.planning.roofline import check as check_all
    from svd_vlm_ros.planning.roofline import software

    checked = check_all()
    if as_json:
        print_json(
            [
                {
                    "what": c.measurement.what,
                    "device": c.measurement.device,
                    "software": c.measurement.runtime,
                    "kind": c.measurement.kind,
                    "measured_seconds": c.measurement.seconds,
                    "model_seconds": c.seconds,
                    "error": c.error,
                    "unseen_error": c.unseen_error,
                    "held": c.measurement.held,
                    "source": c.measurement.source,
                    "note": c.measurement.note,
                }
                for c in checked
            ]
        )
        return
    table = Table(
        title="The roofline against published measurements (error of the seconds)",
        title_justify="left",
        caption="unseen: with the efficiencies solved from the others alone. "
        "*: takes no part in the solving; the report leaves something open.",
        caption_justify="left",
    )
    for name in ("what", "module", "software", "measured", "error", "unseen"):
        table.add_column(
            name, justify="right" if name in ("measured", "error", "unseen") else "left"
        )
    for c in checked:
        m = c.measurement
        unseen = "" if c.unseen_error is None else f"{c.unseen_error:+.0%}"
        name = m.what + ("" if m.held else " *")
        table.add_row(name, m.device, f"{m.runtime} {m.kind}", m.shown, f"{c.error:+.0%}", unseen)
    console = stdout()
    console.print(table)
    engine, eager = software("engine"), software("eager")
    console.print(
        f"Solved: reading at {engine.compute:.2f} of the FP16 rate, writing at {engine.memory:.2f} "
        f"of the bandwidth; eager PyTorch {eager.launch * 1e3:.1f} ms a layer and pass on top."
    )
