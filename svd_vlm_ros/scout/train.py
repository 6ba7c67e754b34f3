# SPDX-License-Identifier: Apache-2.0
"""Trains scout: `python -m svd_vlm_ros.scout.train --out runs/scout`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="folder for the checkpoints")] = Path("runs/scout"),
    stage: Annotated[str, typer.Option(help="vision, language, join or all")] = "all",
    minutes: Annotated[float, typer.Option(help="time for this stage")] = 60.0,
    seed: Annotated[int, typer.Option()] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice")] = 0,
    workers: Annotated[int, typer.Option(help="processes that draw scenes")] = 1,
    device: Annotated[str, typer.Option()] = "cpu",
) -> None:
    import torch

    from .architecture import build
    from .training.common import Run

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    run = Run(out, minutes, seed, workers, torch.device(device))
    model = build()
    if stage == "vision":
        from .training.vision import train_vision

        train_vision(model, run)
    if stage == "language":
        from .training.language import train_language

        train_language(model, run)


if __name__ == "__main__":
    app()
