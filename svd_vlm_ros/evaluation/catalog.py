# SPDX-License-Identifier: Apache-2.0
"""Tasks by their names; `tasks.py` defines what a task is."""

from __future__ import annotations

from pathlib import Path

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.tasks import TASK_NAMES, Task


def open_task(name: str, data: Path | None = None, *, images: int = 0, ocr: bool = True) -> Task:
    """Read a task's questions.

    Args:
        name: one of `TASK_NAMES`.
        data: the folder of the data set; scout draws its own images and takes none.
        images: only the first so many; 0: all of them, of scout `held_out.IMAGES`.
        ocr: TextVQA: write the OCR tokens into the prompt, as LLaVA-1.5's evaluation does.

    Raises:
        UserError: files are missing or broken.
    """
    if name == "scout":
        from svd_vlm_ros.evaluation.held_out import scout_task

        if data is not None:
            raise UserError("The task scout draws its own images: leave --data out.")
        return scout_task(images)
    if name not in TASK_NAMES:
        raise UserError(f"There is no task '{name}': take one of {', '.join(TASK_NAMES)}.")
    if data is None:
        raise UserError(
            f"The task {name} needs its data set: name its folder with --data "
            "(docs/evaluation.md says how to get it)."
        )
    if not data.is_dir():
        raise UserError(f"There is no folder {data}: check --data.")
    if name == "gqa":
        from svd_vlm_ros.evaluation.gqa import gqa_task

        return gqa_task(data).first(images)
    from svd_vlm_ros.evaluation.textvqa import textvqa_task

    return textvqa_task(data, ocr=ocr).first(images)
