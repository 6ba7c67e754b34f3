# SPDX-License-Identifier: Apache-2.0
"""Trains scout: `python -m svd_vlm_ros.scout.train --out runs/scout`, stage by stage, resumable at
any time.

    vision      the tower learns what each patch shows, from the renderer's labels
    language    the language model learns to answer, from an oracle of those labels
    projector   the projector learns to write what the oracle would
    join        everything together, on images and questions
    export      float16 safetensors and the processor files, into the package

`vision` and `language` need nothing of each other and may run side by side.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .training.common import Run

app = typer.Typer(add_completion=False)


class Stage(str, Enum):
    """What to train; `all` goes through the stages in their order."""

    VISION = "vision"
    LANGUAGE = "language"
    PROJECTOR = "projector"
    JOIN = "join"
    EXPORT = "export"
    ALL = "all"


MINUTES = {Stage.VISION: 60.0, Stage.LANGUAGE: 45.0, Stage.PROJECTOR: 6.0, Stage.JOIN: 60.0}


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="folder for the checkpoints")] = Path("runs/scout"),
    stage: Annotated[Stage, typer.Option(help="which stage")] = Stage.ALL,
    minutes: Annotated[
        float, typer.Option(help="computing time of the stage; 0: its own (on 2 CPU cores)")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="seed of the scenes and of the first weights")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice")] = 0,
    workers: Annotated[int, typer.Option(help="processes that draw scenes")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    go_on: Annotated[
        bool, typer.Option("--go-on", help="begin with the shipped weights, not with random ones")
    ] = False,
    model_folder: Annotated[
        Path | None, typer.Option(help="where `export` writes; default: into the package")
    ] = None,
) -> None:
    """Trains scout, or goes on where it was stopped. Example: --stage vision --minutes 30."""
    import torch

    from .training.common import Run

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    stages = [s for s in Stage if s is not Stage.ALL] if stage is Stage.ALL else [stage]
    for one in stages:
        run = Run(out, minutes or MINUTES.get(one, 0.0), seed, workers, torch.device(device))
        _run_stage(one, run, go_on, model_folder)


def _run_stage(stage: Stage, run: Run, go_on: bool, model_folder: Path | None) -> None:
    from .architecture import build
    from .training import export, join, language, vision
    from .training.common import load_modules

    model, oracle = export.shipped() if go_on else (build(), None)
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    if stage is Stage.VISION:
        vision.train_vision(model, run, rate=5e-4 if go_on else 1.2e-3)
        return
    if stage is Stage.LANGUAGE:
        language.train_language(model, oracle or language.new_oracle(model), run)
        return
    if stage is Stage.EXPORT:
        export.export(model, join.load_joined(model, run), model_folder)
        return
    # What an earlier stage of this run has trained goes before what is shipped.
    if run.path("language").exists() or oracle is None:
        oracle = language.load_language(model, run)
    if run.path("vision").exists() or not go_on:
        load_modules(run.path("vision"), {"tower": tower})
    if stage is Stage.PROJECTOR:
        join.train_projector(model, oracle, run)
        return
    if run.path("projector").exists() or not go_on:
        load_modules(run.path("projector"), {"projector": projector})
    join.train_together(model, oracle, run)


if __name__ == "__main__":
    app()
