# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm describe`: one image in words, without ROS."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

from typing import Annotated

import typer

from svd_vlm_ros.cli import options
from svd_vlm_ros.cli.console import print_json, spinner
from svd_vlm_ros.defaults import SELECTOR


def describe(
    image: options.ImagePath,
    prompt: Annotated[
        options.MaybeText,
        typer.Option(
            "--prompt", help="Ask for the description in other words than the model's own."
        ),
    ] = None,
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
    max_new_tokens: options.MaxNewTokens = 128,
    overlay: options.Overlay = None,
    as_json: options.AsJson = False,
) -> None:
    """Describe one image in words.

    Example:  svd-vlm describe photo.jpg --visual-tokens 128
    """
    budget = options.parse_visual_tokens(visual_tokens)

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
        with spinner("Describing"):
            answer = engine.describe(scene, prompt, max_new_tokens=max_new_tokens)
        if overlay:
            report.write_overlay(overlay, pixels, scene, prompt or "", answer)
        record = report.answer_record(engine.info, scene, answer, load_seconds, image, prompt or "")
    finally:
        engine.close()
    if as_json:
        print_json(record)
    else:
        report.print_answer(record)
