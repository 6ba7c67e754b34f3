# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm plan --device this`: what this CPU will do, from one layer that it multiplies."""

from __future__ import annotations

from typing import Any

from svd_vlm_ros.cli.console import gigabytes, milliseconds, print_json, spinner, stdout
from svd_vlm_ros.cli.planned import in_words

THIS = ("this", "cpu")


def plan_here(
    model: str,
    visual_tokens: int,
    text_tokens: int,
    answer_tokens: int,
    image: tuple[int, int],
) -> dict[str, Any]:
    """Time one layer in each precision, and work out the rest. Nothing is loaded or fetched.

    Returns:
        The CPU, the free memory, and for each precision, the fastest first: bytes, whether they
        fit, and seconds.

    Raises:
        UserError: the model is not known.
    """
    from svd_vlm_ros.planning.flops import true_work
    from svd_vlm_ros.planning.known import find_sizes

    sizes = find_sizes(model)
    # Raises for numbers that the model can't have.
    true_work(sizes, visual_tokens, text_tokens, image)
    with spinner("Timing a layer in each precision"):
        import torch

        from svd_vlm_ros.cpu import available_memory, cpu_class, cpu_name
        from svd_vlm_ros.models.weights.precision_choice import AUTO, choose_precision, cpu_bytes

        choice = choose_precision(AUTO, sizes, torch.device("cpu"))
    view = sizes.view(image)
    rows = view.read(visual_tokens) + text_tokens
    return {
        "model": model,
        "image": in_words(image),
        "patches": view.patches,
        "cpu": cpu_name(),
        "class": cpu_class(),
        "threads": torch.get_num_threads(),
        "free_bytes": available_memory(),
        "visual_tokens": visual_tokens,
        "visual_tokens_total": view.tokens,
        "text_tokens": text_tokens,
        "answer_tokens": answer_tokens,
        "auto": choice.precision,
        "advice": choice.advice,
        "precisions": [
            {
                "precision": each,
                "bytes": cpu_bytes(sizes, each, image),
                "fits": each in choice.fitting,
                "first_token": speed.first_token(sizes, rows, image),
                "token": speed.each_token(sizes),
                "answer": speed.answer(sizes, rows, answer_tokens, image),
            }
            for each, speed in choice.speeds.items()
        ],
    }


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print what `plan_here` found."""
    from rich.table import Table

    if as_json:
        print_json(found)
        return
    console = stdout()
    free = found["free_bytes"]
    console.print(
        f"{found['model']} with {found['visual_tokens']} of {found['visual_tokens_total']} visual "
        f"tokens of an image of {found['image']} ({found['patches']} patches) on this CPU: "
        f"{found['cpu']}, {found['class']}, {found['threads']} threads"
        + (f", {gigabytes(free)} of memory free" if free else "")
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("precision")
    for name in ("memory", "first token", "each token", f"{found['answer_tokens']} tokens"):
        table.add_column(name, justify="right")
    for row in found["precisions"]:
        fits = "" if row["fits"] else " (does not fit)"
        seconds = (f"~{milliseconds(row[name])}" for name in ("first_token", "token", "answer"))
        table.add_row(row["precision"], f"~{gigabytes(row['bytes'])}{fits}", *seconds)
    console.print(table)
    console.print(f"precision auto takes {found['auto']}.", style="bold")
    if found["advice"]:
        console.print(found["advice"])
    console.print("Worked out from one layer; svd-vlm bench measures the whole model.", style="dim")
