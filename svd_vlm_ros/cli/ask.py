# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm ask`: one question about one image, without ROS."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

from typing import Annotated

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import print_json, spinner
from svd_vlm_ros.defaults import SELECTOR


def ask(
    image: options.ImagePath,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In plain English.")],
    model: options.Model = "scout",
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    precision: options.PrecisionOption = options.Precision.AUTO,
    selector: options.SelectorName = SELECTOR,
    visual_tokens: options.VisualTokens = "192",
    token_cap: options.TokenCap = 192,
    device: options.Device = "auto",
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    position_policy: options.PositionPolicyOption = options.PositionPolicy.AUTO,
    choices: Annotated[
        str,
        typer.Option(
            "--choices", metavar="A,B,...", help="Choose among these instead of writing freely."
        ),
    ] = "",
    max_new_tokens: options.MaxNewTokens = 64,
    overlay: options.Overlay = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask one question about one image.

    Prints the answer, its confidence, the visual tokens kept, and the time of every stage.

    Example:  svd-vlm ask photo.jpg 'is the path clear?' --choices yes,no --overlay kept.png
    """
    budget = options.parse_visual_tokens(visual_tokens)
    offered = [choice.strip() for choice in choices.split(",")] if choices else []
    if offered and (len(offered) < 2 or not all(offered)):
        raise typer.BadParameter("--choices needs two or more, parted by commas: --choices yes,no")

    from svd_vlm_ros.cli import report
    from svd_vlm_ros.images.disk import check_writable, read_image

    pixels = read_image(image)
    if overlay:
        check_writable(overlay)
    engine, load_seconds = options.load_engine(
        *(model, precision, selector, budget, token_cap, device),
        *(min_pixels, max_pixels, position_policy, runtime),
    )
    try:
        with spinner("Looking at the image"):
            scene = engine.see(pixels)
        with spinner("Answering"):
            if offered:
                answer = engine.choose(scene, question, offered)
            else:
                answer = engine.ask(scene, question, max_new_tokens=max_new_tokens)
        if overlay:
            report.write_overlay(overlay, pixels, scene, question, answer)
        record = report.answer_record(
            engine.info, scene, answer, load_seconds, image, question, offered
        )
    finally:
        engine.close()
    if as_json:
        print_json(record)
    else:
        report.print_answer(record)
