# SPDX-License-Identifier: Apache-2.0
"""Exported graphs run by onnxruntime as plainly as can be, for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from svd_vlm_ros.onnx_runtime.manifest import Manifest

Cache = list[np.ndarray]


class Graphs:
    """The sessions of an exported folder."""

    def __init__(self, folder: Path, session: dict[str, str] | None = None) -> None:
        self.manifest = Manifest.read(folder)
        self._session = {**self.manifest.session, **(session or {})}
        self.opened: dict[str, onnxruntime.InferenceSession] = {}

    def run(self, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs of a graph by their names."""
        if graph not in self.opened:
            self.opened[graph] = self.open(graph)
        session = self.opened[graph]
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def open(self, graph: str, optimized: Path | None = None) -> onnxruntime.InferenceSession:
        """A session; `optimized`: where onnxruntime writes what it makes of the graph."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in self._session.items():
            options.add_session_config_entry(key, value)
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        path = str(self.manifest.path(graph))
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def empty(self) -> Cache:
        """A cache of nothing."""
        sizes = self.manifest.sizes
        inputs = self.manifest.tensors["decoder.onnx"]["inputs"]
        shape = 1, sizes["kv_heads"], 0, sizes["head_dim"]
        return [np.zeros(shape, inputs["past_key.0"][0]) for _ in range(2 * sizes["layers"])]

    def read(
        self, embeds: np.ndarray, positions: np.ndarray, cache: Cache, rows: list[int]
    ) -> tuple[np.ndarray, Cache]:
        """Read [n, hidden] at positions [n] behind a cache: logits of `rows`, and the cache."""
        layers = self.manifest.sizes["layers"]
        inputs = {
            "inputs_embeds": embeds[None].astype(np.float32),
            "position_ids": positions[None].astype(np.int64),
            "rows": np.array(rows, np.int64),
        }
        for index in range(layers):
            inputs[f"past_key.{index}"] = cache[2 * index]
            inputs[f"past_value.{index}"] = cache[2 * index + 1]
        found = self.run("decoder.onnx", inputs)
        new = [found[f"present_{kind}.{i}"] for i in range(layers) for kind in ("key", "value")]
        return found["logits"], new
