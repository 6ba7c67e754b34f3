# SPDX-License-Identifier: Apache-2.0
"""An exported folder's graphs run by onnxruntime on the CPU, as plainly as can be.

For checks. What serves a robot, with its buffers and providers, is the room `onnx_runtime`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from svd_vlm_ros.onnx_runtime.manifest import DECODER, PROJECTOR, VISION, Manifest

Cache = Sequence[np.ndarray]
"""Keys and values of each layer by turns, [1, kv_heads, p, head_dim]."""


class Sessions:
    """The three graphs and the table of embeddings. A graph is opened when it is first asked for.

    Attributes:
        manifest: of the folder, checked.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Check a folder. Raises `UserError` if it is damaged; threads 0: as many as cores."""
        self.manifest = Manifest.read(folder)
        self._threads = threads
        self._opened: dict[str, Any] = {}

    def open(self, graph: str, optimized: Path | None = None) -> Any:
        """A session; `optimized`: where onnxruntime writes what it makes of the graph."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3  # no warnings: of constants that it folds
        for key, value in self.manifest.session.items():
            options.add_session_config_entry(key, value)
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        path = str(self.manifest.path(graph))
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs of a graph by their names."""
        if graph not in self._opened:
            self._opened[graph] = self.open(graph)
        session = self._opened[graph]
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def see(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """What the tower makes of pixel values [1, 3, H, W]."""
        return self.run(VISION, {"pixel_values": pixels})

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Visual tokens [k, hidden] of kept rows [k, D]."""
        return self.run(PROJECTOR, {"rows": rows})["tokens"]

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Embeddings float32 [n, hidden] of token ids."""
        return self.manifest.embeddings()[list(ids)].astype(np.float32)

    def empty(self) -> list[np.ndarray]:
        """A cache of nothing."""
        sizes = self.manifest.sizes
        dtype = self.manifest.tensors[DECODER]["inputs"]["past_key.0"][0]
        shape = 1, sizes["kv_heads"], 0, sizes["head_dim"]
        return [np.zeros(shape, dtype) for _ in range(2 * sizes["layers"])]

    def read(
        self, embeds: np.ndarray, positions: np.ndarray, cache: Cache, rows: Sequence[int]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Read [n, hidden] at positions [n] behind a cache: logits of `rows`, and the cache."""
        layers = self.manifest.sizes["layers"]
        inputs: dict[str, np.ndarray] = {
            "inputs_embeds": embeds[None].astype(np.float32),
            "position_ids": positions[None].astype(np.int64),
            "rows": np.array(rows, np.int64),
        }
        for index in range(layers):
            inputs[f"past_key.{index}"] = cache[2 * index]
            inputs[f"past_value.{index}"] = cache[2 * index + 1]
        found = self.run(DECODER, inputs)
        new = [found[f"present_{kind}.{i}"] for i in range(layers) for kind in ("key", "value")]
        return found["logits"], new

    def write(self, embeds: np.ndarray, limit: int) -> list[int]:
        """Greedy token ids of an answer to a prompt [n, hidden], its end token left out."""
        ends = set(self.manifest.prompt["end_token_ids"])
        count = len(embeds)
        logits, cache = self.read(embeds, np.arange(count), self.empty(), [count - 1])
        written: list[int] = []
        while len(written) < limit:
            token = int(logits[0].argmax())
            if token in ends:
                break
            written.append(token)
            place = np.array([count + len(written) - 1])
            logits, cache = self.read(self.embed([token]), place, cache, [0])
        return written
