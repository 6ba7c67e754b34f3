# SPDX-License-Identifier: Apache-2.0
"""What the stages of scout's training share: a stage that runs for a time budget, its checkpoints,
its progress bar.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from ..architecture import MEAN, STD
from ..world import HELD_OUT_SEEDS

# A model of transformers or a part of it: torch would type what hangs on a Module as "Tensor or
# Module", which is less exact.
Part: TypeAlias = Any

REPORT_EVERY = 20  # steps between two lines of the progress bar
SAVE_EVERY = 60.0  # seconds between two checkpoints


@dataclass(frozen=True)
class Run:
    """Where a stage writes, for how long it computes (minutes, over all resumptions), and with
    what.
    """

    folder: Path
    minutes: float
    seed: int
    workers: int
    device: torch.device

    def path(self, stage: str) -> Path:
        """The checkpoint of a stage."""
        return self.folder / f"{stage}.pt"


def training_seed(worker: int, step: int, base: int) -> int:
    """A scene seed that no held-out scene and no other worker has."""
    return (base * 7919 + worker * 2_500_000 + step) % HELD_OUT_SEEDS.start


def pixel_values(images: Tensor) -> Tensor:
    """uint8 [B, 336, 336, 3] to CLIP's normalised float32 [B, 3, 336, 336]."""
    mean = torch.tensor(MEAN, device=images.device) * 255
    std = torch.tensor(STD, device=images.device) * 255
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def train(
    stage: str,
    run: Run,
    modules: dict[str, nn.Module],
    rates: dict[str, float],
    batches: Iterator[Any],
    step_loss: Callable[[Any, float], tuple[Tensor, dict[str, float]]],
    validate: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Runs one stage until its time is used up; continues from its checkpoint if there is one.

    Args:
        modules: what the checkpoint holds; those named in `rates` are trained, each at its own peak
            rate.
        batches: an endless stream.
        step_loss: from a batch and the share of the time that is used, to a loss and figures for
            the progress bar.
        validate: called with each checkpoint; its figures are printed.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for p in modules[name].parameters() if p.requires_grad], "rate": rate}
        for name, rate in rates.items()
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02)
    spent, steps = _resume(run.path(stage), modules, optimizer)
    budget = run.minutes * 60
    began, saved = time.monotonic() - spent, time.monotonic()
    smooth: dict[str, float] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task(stage, total=int(budget), completed=int(spent), figures="")
        while (spent := time.monotonic() - began) < budget:
            share = spent / budget
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * _schedule(steps, share)
            loss, figures = step_loss(next(batches), share)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
            optimizer.step()
            steps += 1
            for name, value in {"loss": loss.item(), **figures}.items():
                smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
            if steps % REPORT_EVERY == 0:
                line = " ".join(f"{name} {value:.3f}" for name, value in smooth.items())
                progress.update(bar, completed=int(spent), figures=f"step {steps} {line}")
            if time.monotonic() - saved > SAVE_EVERY:
                saved = time.monotonic()
                _save(run.path(stage), modules, optimizer, spent, steps)
                found = validate() if validate else {}
                line = " ".join(f"{k} {v:.3f}" for k, v in {**smooth, **found}.items())
                progress.console.print(f"{stage} {spent / 60:.1f} min, step {steps}: {line}")
        _save(run.path(stage), modules, optimizer, budget, steps)


def load_modules(path: Path, modules: dict[str, nn.Module]) -> None:
    """Weights of an earlier stage's checkpoint into the modules of the same names."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])


def _schedule(steps: int, share: float) -> float:
    """Warm-up over 200 steps, then a cosine over the stage's time down to 2 %."""
    warm = min(1.0, (steps + 1) / 200)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def _resume(
    path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> tuple[float, int]:
    if not path.exists():
        return 0.0, 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    if state["optimizer"]["param_groups"]:
        optimizer.load_state_dict(state["optimizer"])
    return float(state["spent"]), int(state["steps"])


def _save(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    spent: float,
    steps: int,
) -> None:
    """Written beside and renamed, so that a killed run leaves the last whole checkpoint."""
    state = {
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizer": optimizer.state_dict(),
        "spent": spent,
        "steps": steps,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    os.replace(beside, path)
