# SPDX-License-Identifier: Apache-2.0
"""What a change costs or gains: another commit and this one by turns, in one run.

    git worktree add ../before b3639fa && make -C ../before install
    python benchmark/before_after.py --before ../before/.venv/bin/python

Each commit has a process of its own, which does one job at a time when it is told to: the model
sees, asks, chooses, describes, and the selectors choose among 576 x 1024 features. Processor time
of the process, so that other work on the machine counts little; the order within a pair changes
from round to round. `ratio` is the median over the rounds of after / before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

CHILD = r"""
import json, sys, time
import numpy as np, torch
torch.set_num_threads(int(sys.argv[1]))
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.selection import Budget, VisualFeatures, make_selector

rng = np.random.default_rng(0)
image = rng.integers(0, 256, (480, 640, 3), np.uint8)
question, jobs = "what is the ground?", {}
questions = [question, "is there a tree?", "how is the sky?"]
for precision in sys.argv[2].split(","):
    engine = SceneEngine.load(sys.argv[3], precision=precision, device="cpu", visual_tokens=64)
    scene = engine.see(image)
    engine.ask(scene, question)
    jobs |= {
        f"{precision} see": lambda e=engine: e.see(image),
        f"{precision} see, ask": lambda e=engine: e.ask(e.see(image), question),
        f"{precision} describe": lambda e=engine, s=scene: e.describe(s, max_new_tokens=16),
        f"{precision} choose": lambda e=engine, s=scene: e.choose(s, question, ["grass", "sand"]),
        f"{precision} ask 3": lambda e=engine, s=scene: e.ask_many(s, questions),
    }
patches = torch.from_numpy(rng.normal(size=(576, 1024)).astype(np.float32))
features = VisualFeatures(patches, (24, 24), projected=patches)
for name in ("svd", "svd-cover", "divprune", "grid"):
    jobs[f"select {name}"] = lambda s=make_selector(name): s(features, Budget(64))
for job in jobs.values():
    job()
print(json.dumps(list(jobs)), flush=True)
for line in sys.stdin:
    job = jobs[line.strip()]
    start = time.process_time()
    for _ in range(3):
        job()
    print((time.process_time() - start) / 3, flush=True)
"""


class Commit:
    """A process that runs jobs of one commit."""

    def __init__(self, python: str, threads: int, precisions: str, model: str) -> None:
        self._process = subprocess.Popen(
            [python, "-c", CHILD, str(threads), precisions, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.jobs: list[str] = json.loads(self._read())

    def seconds(self, job: str) -> float:
        """Processor seconds of a job."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{job}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("One of the processes ended: see its message above.")
        return line


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--before", required=True, help="Python that has the other commit")
    parser.add_argument("--after", default=sys.executable, help="Python that has this one")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--model", default="scout", help="or random:llava-1.5-7b:2, two layers")
    wish = parser.parse_args()
    how = wish.threads, wish.precisions, wish.model
    before, after = Commit(wish.before, *how), Commit(wish.after, *how)
    found: dict[str, list[tuple[float, float]]] = {job: [] for job in after.jobs}
    for index in range(wish.rounds):
        for job, pairs in found.items():
            order = (before, after) if index % 2 else (after, before)
            one, two = (commit.seconds(job) for commit in order)
            pairs.append((one, two) if index % 2 else (two, one))
    table = Table("job", "before [ms]", "after [ms]", "ratio", "ratio of the least")
    for job, pairs in found.items():
        old, new = zip(*pairs, strict=True)
        table.add_row(
            job,
            f"{1e3 * statistics.median(old):.2f}",
            f"{1e3 * statistics.median(new):.2f}",
            f"{statistics.median(b / a for a, b in pairs):.3f}",
            f"{min(new) / min(old):.3f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
