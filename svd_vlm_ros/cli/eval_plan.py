# SPDX-License-Identifier: Apache-2.0
"""From the options of `svd-vlm eval` to what is to be run, checked before a model is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import print_warning
from svd_vlm_ros.errors import UserError

if TYPE_CHECKING:
    from svd_vlm_ros.evaluation.runs import Run

# Results are those of one precision, the same on every machine: not "auto".
PRECISIONS = tuple(
    precision.value for precision in options.Precision if precision is not options.Precision.AUTO
)


def plan_run(
    *,
    task: str,
    model: str,
    precision: str,
    selectors: str,
    visual_tokens: str,
    images: int,
    data: Path | None,
    ocr: bool,
    out: Path,
    corruptions: str,
    severities: str,
    rephrase: bool,
    times: int,
    seed: int,
    device: str,
) -> Run:
    """Check everything that can be checked before a model is loaded.

    The arguments are the command's options, `times` with its default put in. Raises `UserError` or
    `typer.BadParameter` with what is wrong.
    """
    budgets = tuple(_whole_numbers(visual_tokens, "--visual-tokens", 1, 1_000_000))
    levels = _whole_numbers(severities, "--severities", 1, 5)
    precisions = tuple(_names(precision, "--precision", PRECISIONS))

    from svd_vlm_ros.evaluation.catalog import open_task
    from svd_vlm_ros.evaluation.cells import CLEAN, REPHRASED, condition_of
    from svd_vlm_ros.evaluation.corruptions import CORRUPTIONS
    from svd_vlm_ros.evaluation.finishing import weights_hash
    from svd_vlm_ros.evaluation.runs import Run
    from svd_vlm_ros.selection import selector_names

    chosen = _names(selectors, "--selectors", selector_names())
    spoiled = _names(corruptions, "--corruptions", list(CORRUPTIONS)) if corruptions else []
    conditions = [CLEAN, *(condition_of(name, level) for name in spoiled for level in levels)]
    rank, world = _place()
    if world > 1 and device == "auto":
        device = _own_device()
    opened = open_task(task, data, images=images, ocr=ocr)
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
    """This process's number and how many there are, as `accelerate launch` and torchrun set."""
    try:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0")) if world > 1 else 0
    except ValueError:
        raise UserError("RANK and WORLD_SIZE must be whole numbers.") from None
    if not 0 <= rank < world:
        raise UserError(f"RANK {rank} is not one of WORLD_SIZE {world} processes.")
    return rank, world


def _own_device() -> str:
    """A GPU of this machine for each process; the CPU if there is none."""
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
            f"{len(missing)} images are missing ({some_of(missing)}): their {left_out} questions "
            "are not asked."
        )
