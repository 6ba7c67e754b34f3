# SPDX-License-Identifier: Apache-2.0
"""What the workers of `peers.py` share: how they are spoken to, the inputs, the weights.

A worker's script is run by the Python of its peer's own environment, with NumPy and no torch:

    python peers_<name>.py convert JSON     make this peer's files of the weights
    python peers_<name>.py serve JSON       load, warm up, then a line of JSON for each line read
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

READ = (66, 242, 626)  # 16, 192 and 576 visual tokens with a prompt of 50
BEHIND = READ[0]  # rows in the cache when tokens are measured
TOKENS = 8  # the median of so many counts
HIDDEN, HEADS, HEAD_SIZE, FEED_FORWARD = 4096, 32, 128, 11008
CONTEXT = 4096
EPSILON, THETA = 1e-5, 10_000.0
IMAGE_SIZE, PATCH, PATCHES = 336, 14, 576
VISION_HIDDEN, VISION_HEADS, VISION_LAYERS = 1024, 16, 23  # LLaVA never needs the last of 24
VISION_EPSILON = 1e-5


class Peer(Protocol):
    """One library in one precision. All arrays are float32.

    Attributes:
        about: what the table shows of it: "version", "head" (the precision of the output head).
    """

    about: dict[str, str]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read embeddings [n, hidden] from an empty cache; the logits [vocabulary] of the last."""
        ...

    def token(self, row: np.ndarray) -> np.ndarray:
        """Read one more row [1, hidden] behind them; its logits [vocabulary]."""
        ...

    def tower(self, pixels: np.ndarray) -> np.ndarray | None:
        """Features [patches, hidden] of pixels [1, 3, size, size]; None: it has no tower."""
        ...


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Embeddings as large as those of the random embedding table, and pixels."""
    random = np.random.default_rng(0)
    rows = 0.02 * random.standard_normal((max(READ) + TOKENS, HIDDEN), np.float32)
    pixels = random.standard_normal((1, 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    return rows.astype(np.float32), pixels


def main(convert: Callable[[dict[str, Any]], None], load: Callable[[dict[str, Any]], Peer]) -> None:
    """What a worker's script does; see the module's docstring."""
    action, options = sys.argv[1], json.loads(sys.argv[2])
    if action == "convert":
        convert(options)
        return
    # Libraries print what they like: standard output is for answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    begun = time.monotonic()
    peer = load(options)
    loaded = time.monotonic() - begun
    rows, pixels = inputs()
    outputs = warm_up(peer, rows, pixels)
    np.savez(options["outputs"], **outputs)
    ready = {"about": peer.about, "load_s": loaded, "held": memory("VmRSS")}
    print(json.dumps(ready), file=answers, flush=True)
    for _ in sys.stdin:
        figures = measure(peer, rows, pixels)
        print(json.dumps({"figures": figures, "peak": memory("VmHWM")}), file=answers, flush=True)


def warm_up(peer: Peer, rows: np.ndarray, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Do everything once; what came out is compared between the peers."""
    peer.read(rows[: READ[-1]])
    peer.read(rows[: READ[1]])
    found = {"read": peer.read(rows[:BEHIND])}
    found["token"] = peer.token(rows[BEHIND : BEHIND + 1])
    features = peer.tower(pixels)
    if features is not None:
        found["tower"] = features
    return found


def measure(peer: Peer, rows: np.ndarray, pixels: np.ndarray) -> dict[str, float]:
    """Seconds of each kind of work."""
    figures = {}
    for count in reversed(READ):  # the shortest last: the tokens follow it
        begun = time.perf_counter()
        peer.read(rows[:count])
        figures[f"read {count}"] = time.perf_counter() - begun
    taken = []
    for index in range(BEHIND, BEHIND + TOKENS):
        begun = time.perf_counter()
        peer.token(rows[index : index + 1])
        taken.append(time.perf_counter() - begun)
    figures["token"] = statistics.median(taken)
    begun = time.perf_counter()
    if peer.tower(pixels) is not None:
        figures["tower"] = time.perf_counter() - begun
    return figures


def memory(field: str) -> int:
    """Bytes of this process: VmRSS (resident now) or VmHWM (at most, since it was started)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def turns(start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rotary cosines and sines [count, head size] of positions from `start` on."""
    speeds = THETA ** -(np.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
    angles = np.tile(np.outer(np.arange(start, start + count), speeds), 2)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class GraphFeeds:
    """The inputs of the graph of `peers_graph.py`, and the cache between its runs."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.clear()

    def clear(self) -> None:
        empty = np.zeros((1, HEADS, 0, HEAD_SIZE), np.float32)
        self.cache = [empty] * (2 * self.layers)

    def feeds(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """For n more rows behind what the cache holds."""
        count, held = len(rows), self.cache[0].shape[2]
        cosines, sines = turns(held, count)
        mask = np.triu(np.full((count, held + count), -1e9, np.float32), held + 1)
        cache = {f"past_{index}": states for index, states in enumerate(self.cache)}
        return {"rows": rows, "cosines": cosines, "sines": sines, "mask": mask, **cache}


class Weights:
    """The tensors of a LLaVA's folder as NumPy arrays, float16, by names without prefixes:
    `layers.0.mlp.up_proj.weight`, `lm_head.weight`; the tower's begin with `vision.`.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._files: dict[str, tuple[Any, str]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            opened = safe_open(path, framework="numpy")
            for key in opened.keys():  # noqa: SIM118
                short = re.sub(r"^((model|language_model|vision_tower|vision_model)\.)+", "", key)
                kind = "vision." if "vision_tower" in key else ""
                self._files[kind + short] = opened, key
        numbers = [re.match(r"layers\.(\d+)\.", name) for name in self._files]
        self.layers = 1 + max(int(found[1]) for found in numbers if found)

    def __getitem__(self, name: str) -> np.ndarray:
        opened, key = self._files[name]
        found: np.ndarray = opened.get_tensor(key)
        return found
