# SPDX-License-Identifier: Apache-2.0
"""This package beside llama.cpp, onnxruntime and OpenVINO, on one CPU and one set of weights.

    python benchmark/peers.py --folder /var/tmp/peers
    python benchmark/peers.py --folder /var/tmp/peers --isa avx2 --json > avx2.json

The weights are random, of LLaVA-1.5-7B's sizes with 8 of its 32 layers. Each peer has an
environment of its own in the folder, which is made once (from PyPI; llama.cpp is compiled there),
and its own files of the weights: 30 GB for all of them. Each peer in each precision is a process;
they take turns, one round after the other, so that all meet the same machine. A process that waits
is stopped, and ended if memory would not hold the next one.

* `read n`: n embeddings from an empty cache to the logits of the last one.
* `token`: one more row behind 66, to its logits; the median of 8 in a row.
* `tower`: CLIP ViT-L/14-336, 23 of 24 layers, from pixels to features; fp32 in the peers.
* `peak` and `held`: resident memory of the process at most, with loading, and when it was warm.
  llama.cpp has no tower in it; only ours and llama.cpp hold an embedding table.
* `agrees`: cosines of the logits of `read 66`, of the token's, and of the tower's features with
  those of our fp32 (of onnxruntime's if ours is left out). A wrong graph could be fast, too.

Per layer, times count four times as much in LLaVA-1.5-7B; the output head (column `head`, in what
precision) counts once. Not measured: llama.cpp's tower, and precisions that a peer's documentation
does not name first.

`--isa avx2` keeps the libraries from using more than AVX2 on a CPU that has more, through their
environment variables, and compiles llama.cpp without. It marks what can't be kept from it.
OpenVINO may refuse to compile a model then, since its oneDNN is restricted and the rest of it is
not; a process that ends is named below the table.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from peers_setup import Setup, say
from peers_table import QUANTITIES, compare, show

from svd_vlm_ros.cpu import cpu_class, cpu_name

DEFAULTS = {
    "ours": "fp32,bf16,int8,int4",
    "llama.cpp": "F16,Q8_0,Q4_0",
    "onnxruntime": "fp32,int8,int4",
    "OpenVINO": "int8,int4",
}
PARAMETERS = {"layer": 202_383_360, "rest": 566_140_000}  # of tower, projector, head, embeddings
BITS = {"fp32": 32, "F16": 16, "bf16": 16, "fp16": 16, "Q8_0": 8, "int8": 8}
SHARE = 0.9  # of the memory that is free at the start


class Worker:
    """A process of one peer in one precision, and what it has measured.

    Attributes:
        name: peer and precision.
        about: what it reported of itself when it was ready.
        figures: of each round, seconds.
        held, peak: bytes.
        failure: why it takes no more turns.
    """

    def __init__(self, setup: Setup, peer: str, precision: str) -> None:
        self.name, self.peer, self.precision = f"{peer} {precision}", peer, precision
        self._setup, self._options = setup, setup.convert(peer, precision)
        self.outputs = setup.files / f"outputs-{peer}-{precision}.npz"
        self._options["outputs"] = str(self.outputs)
        self._process: subprocess.Popen[str] | None = None
        self.about: dict[str, str] = {}
        self.figures: list[dict[str, float]] = []
        self.held = self.peak = 0
        self.failure: str | None = None

    @property
    def resident(self) -> int:
        """Bytes that it holds now."""
        return self.held if self._process else 0

    def start(self) -> None:
        log = (self._setup.files / f"log-{self.peer}-{self.precision}.txt").open("w")
        self._process = subprocess.Popen(
            self._setup.command(self.peer, "serve", self._options),
            env=self._setup.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        ready = self._answer()
        self.about, self.held = ready["about"], ready["held"]

    def measure(self) -> None:
        """A round; starts the process if it does not run."""
        if self._process is None:
            self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        print(file=self._process.stdin, flush=True)
        answer = self._answer()
        self._process.send_signal(signal.SIGSTOP)  # threads that spin would disturb the others
        self.figures.append(answer["figures"])
        self.peak = max(self.peak, answer["peak"])

    def row(self) -> dict[str, Any]:
        """Its figures, in milliseconds and bytes, and what it reported of itself."""
        row: dict[str, Any] = {"peer": self.peer, "precision": self.precision}
        for quantity in QUANTITIES:
            values = [1e3 * each[quantity] for each in self.figures if quantity in each]
            if values:
                row[quantity] = {
                    "median": statistics.median(values),
                    "half_range": (max(values) - min(values)) / 2,
                    "runs": len(values),
                }
        return row | {"peak": self.peak, "held": self.held, **self.about}

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended: see its log in {self._setup.files}")
        found: dict[str, Any] = json.loads(line)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for all that is made")
    parser.add_argument("--python", default=sys.executable, help="where this package is installed")
    for peer, precisions in DEFAULTS.items():
        option = "--" + peer.lower().replace(".", "-")
        parser.add_argument(
            option, dest=peer, default=precisions, help="precisions, '' for none (%(default)s)"
        )
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", type=float, help="GB for all processes (90 %% of what is free)")
    parser.add_argument("--isa", choices=("avx2",), help="restrict the libraries")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--prepare", action="store_true", help="make files, measure nothing")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    setup = Setup(
        folder=options.folder.resolve(),
        python=options.python,
        layers=options.layers,
        threads=options.threads,
        avx2=options.isa == "avx2",
    )
    workers = []
    for peer in DEFAULTS:
        precisions = [word for word in getattr(options, peer).split(",") if word]
        if precisions:
            setup.install(peer)
        workers += [Worker(setup, peer, precision) for precision in precisions]
    if options.prepare:
        return
    load = os.getloadavg()[0]
    memory = options.memory * 1e9 if options.memory else SHARE * free_memory()
    measure(workers, options.rounds, memory, largest(options.layers))
    about: dict[str, Any] = {
        "cpu": cpu_name(),
        "class": cpu_class(),
        "threads": options.threads,
        "restricted to": "AVX2" if setup.avx2 else None,
        "layers": options.layers,
        "rounds": max(len(worker.figures) for worker in workers),
        "load": load,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
    about["failed"] = [worker.failure for worker in workers if worker.failure]
    measured = [worker for worker in workers if worker.figures]
    rows = [worker.row() for worker in measured]
    compare(rows, [worker.outputs for worker in measured])
    if options.json:
        print(json.dumps({**about, "rows": rows}, indent=2))
    else:
        show(about, rows)


def measure(workers: list[Worker], rounds: int, memory: float, most: float) -> None:
    """Let the workers take turns.

    Those that run stay in memory as long as the largest one would find room beside them; the
    others are loaded anew in each round. Small ones begin, so that many stay.
    """
    turns = sorted(workers, key=lambda worker: BITS.get(worker.precision, 4))
    try:
        for number in range(rounds):
            for worker in [each for each in turns if each.failure is None]:
                say(f"round {number + 1} of {rounds}: {worker.name}")
                try:
                    worker.measure()
                except (RuntimeError, OSError) as error:
                    say(str(error))
                    worker.failure = str(error)
                    worker.stop()
                if sum(other.resident for other in workers) + most > memory:
                    worker.stop()
    except KeyboardInterrupt:
        say("interrupted: this is what was measured until then")
    finally:
        for worker in workers:
            worker.stop()


def interrupt(*_: object) -> None:
    """Stop measuring. Once: `timeout` signals a process and its group, which are two signals."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def largest(layers: int) -> float:
    """Bytes that the largest process needs, in fp32; pages of mapped files can be taken from it."""
    return 4.5 * (layers * PARAMETERS["layer"] + PARAMETERS["rest"])


def free_memory() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    raise RuntimeError("/proc/meminfo does not have how much memory is free")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
