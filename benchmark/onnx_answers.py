# SPDX-License-Identifier: Apache-2.0
"""Whether the runtime onnx keeps the patches and gives the answers of torch, on scout's scenes.

    python benchmark/onnx_answers.py --export scout_onnx --precision fp32 --questions 200

The first held-out questions, at each budget, greedily, by both runtimes: how often the kept patches
and the tokens of the answer are the same, and how often each answer is right.
"""

import argparse
import itertools
import sys
from collections import Counter
from pathlib import Path

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.evaluation.held_out import scout_task

BUDGETS = (576, 192, 64, 16)


def compare(onnx, torch, task, items, tokens):
    """Count what both runtimes do with the same questions."""
    counts = Counter()
    for image, asked in itertools.groupby(items, key=lambda item: item.image):
        pixels = task.read(image)
        scenes = [engine.see(pixels, visual_tokens=tokens) for engine in (onnx, torch)]
        kept = [scene.selection.indices.tolist() for scene in scenes]
        for item in asked:
            mine, theirs = (
                engine.ask(scene, item.question, max_new_tokens=item.max_new_tokens)
                for engine, scene in zip((onnx, torch), scenes, strict=True)
            )
            counts["questions"] += 1
            counts["same patches"] += kept[0] == kept[1]
            counts["same tokens"] += mine.token_ids == theirs.token_ids
            counts["onnx right"] += task.score(item, mine.text) == 1.0
            counts["torch right"] += task.score(item, theirs.text) == 1.0
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", type=Path, required=True, help="a folder, made if it is absent")
    parser.add_argument("--model", default="scout")
    parser.add_argument("--precision", default="fp32", help="of both runtimes")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    given = parser.parse_args()
    if not given.export.exists():
        from svd_vlm_ros.export import export_onnx

        export_onnx(given.model, given.export, precision=given.precision)
    onnx = SceneEngine.load(str(given.export), precision=given.precision)
    torch = SceneEngine.load(given.model, precision=given.precision)
    task = scout_task(given.questions // 10 + 1)
    items = task.items[: given.questions]
    print("| tokens | questions | same patches | same tokens | onnx right | torch right |")
    print("|---|---|---|---|---|---|")
    differ = 0
    for tokens in map(int, given.budgets.split(",")):
        counts = compare(onnx, torch, task, items, tokens)
        differ += counts["questions"] - min(counts["same patches"], counts["same tokens"])
        cells = ("questions", "same patches", "same tokens", "onnx right", "torch right")
        print(f"| {tokens} |", " | ".join(str(counts[cell]) for cell in cells), "|", flush=True)
    return 1 if differ and given.precision == "fp32" else 0


if __name__ == "__main__":
    sys.exit(main())
