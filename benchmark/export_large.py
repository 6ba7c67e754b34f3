# SPDX-License-Identifier: Apache-2.0
"""Exports above the 2 GB of a protocol buffer, at LLaVA-1.5-7B's dimensions with random weights.

    python benchmark/export_large.py --out large        # or: make export-large

The decoder of 8 layers is exported in fp16: the checker passes by path (the export does that
itself), and onnxruntime's logits are compared with torch's. The whole 7B is exported in int4 and
run. Each step is a process of its own, whose peak is its own. Needs 12 GB of disk and 16 GB of
memory; what it exports is deleted. Exit status 1 if the logits differ.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from svd_vlm_ros.cpu import cpu_class, cpu_name

SHORT, WHOLE = "random:llava-1.5-7b:8", "random:llava-1.5-7b"
ROWS = 66  # 64 visual tokens and a little text
TOKENS = 8
MOST = 0.02  # of the logits' standard deviation, on average: float16 on both sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--short", default=SHORT, help="exported in fp16 and compared")
    parser.add_argument("--whole", default=WHOLE, help="exported in int4 and run")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        STEPS[options.step[0]](*options.step[1:])
        return
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-large-", dir=options.out) as name:
        folder = Path(name)
        lines, apart = compare(options.short, folder)
        lines += run_whole(options.whole, folder)
    day = datetime.date.today().isoformat()
    print(f"{cpu_name()}, {cpu_class()}, {day}\n")
    print("| step | seconds | peak memory | on disk |\n|---|---|---|---|")
    print("\n".join(lines))
    print(f"\nlogits in fp16 beside torch's: {apart:.4f} standard deviations apart on average")
    sys.exit(0 if apart < MOST else 1)


def compare(model: str, folder: Path) -> tuple[list[str], float]:
    """Export in fp16, read the same rows by both; table rows and the mean difference."""
    out = folder / "short"
    made = export(model, out, "fp16")
    theirs = step("torch", model, folder / "torch.npy")
    ours = step("onnxruntime", out, folder / "onnx.npy")
    shutil.rmtree(out)
    wanted, found = np.load(folder / "torch.npy"), np.load(folder / "onnx.npy")
    apart = float(np.abs(found - wanted).mean() / wanted.std())
    lines = [
        line(f"{model}: export in fp16", made["seconds"], made["peak_bytes"], made["bytes"]),
        line(f"torch reads {ROWS} rows in fp16", theirs["read"], theirs["peak"]),
        line(f"onnxruntime reads {ROWS} rows in fp16", ours["read"], ours["peak"]),
    ]
    return lines, apart


def run_whole(model: str, folder: Path) -> list[str]:
    """Export in int4 and run; table rows."""
    out = folder / "whole"
    made = export(model, out, "int4")
    ours = step("onnxruntime", out, folder / "whole.npy")
    shutil.rmtree(out)
    return [
        line(f"{model}: export in int4", made["seconds"], made["peak_bytes"], made["bytes"]),
        line("onnxruntime: check all files", ours["check"], 0),
        line("onnxruntime: open the decoder", ours["open"], 0),
        line(f"onnxruntime reads {ROWS} rows", ours["read"], 0),
        line("onnxruntime writes a token", ours["token"], ours["peak"]),
    ]


def line(what: str, seconds: float, peak: float, size: float = 0) -> str:
    """A row of the table."""
    gigabytes = [f"{each / 1e9:.2f} GB" if each else "" for each in (peak, size)]
    return f"| {what} | {seconds:.3g} | {gigabytes[0]} | {gigabytes[1]} |"


def export(model: str, out: Path, precision: str) -> dict[str, Any]:
    """By the command, in a process of its own."""
    words = ["--model", model, "--out", str(out), "--precision", precision, "--json"]
    code = "from svd_vlm_ros.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", "onnx", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def step(*words: object) -> dict[str, float]:
    """A step of this file in a process of its own."""
    command = [sys.executable, __file__, "--step", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def rows(hidden: int) -> np.ndarray:
    """Random embeddings of the size that a model's are."""
    return np.random.default_rng(0).normal(scale=0.02, size=(ROWS, hidden)).astype(np.float32)


def read_by_torch(model: str, out: str) -> None:
    import torch

    from svd_vlm_ros import models

    stock: Any = models.load(model, precision="fp16", device="cpu").model
    embeds = rows(stock.config.text_config.hidden_size)
    begun = time.perf_counter()
    with torch.inference_mode():
        given = torch.from_numpy(embeds).half()[None]
        hidden = stock.model.language_model(inputs_embeds=given, use_cache=False)
        logits = stock.lm_head(hidden.last_hidden_state)[0].float().numpy()
    say(read=time.perf_counter() - begun)
    np.save(out, logits)


def read_by_onnxruntime(folder: str, out: str) -> None:
    from svd_vlm_ros.export.sessions import Sessions

    times = [time.perf_counter()]
    sessions = Sessions(Path(folder))
    times.append(time.perf_counter())
    decoder = sessions.open("decoder.onnx")
    sessions._opened["decoder.onnx"] = decoder
    times.append(time.perf_counter())
    embeds = rows(int(sessions.manifest.sizes["hidden"]))
    logits, cache = sessions.read(embeds, np.arange(ROWS), sessions.empty(), list(range(ROWS)))
    times.append(time.perf_counter())
    for place in range(ROWS, ROWS + TOKENS):
        _, cache = sessions.read(embeds[:1], np.array([place]), cache, [0])
    times.append(time.perf_counter())
    check, opened, read, tokens = np.diff(times)
    say(check=check, open=opened, read=read, token=tokens / TOKENS)
    np.save(out, logits)


def say(**found: float) -> None:
    """What a step found, and its peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**found, "peak": peak}))


STEPS = {"torch": read_by_torch, "onnxruntime": read_by_onnxruntime}

if __name__ == "__main__":
    main()
