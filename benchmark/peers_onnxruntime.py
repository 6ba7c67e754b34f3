# SPDX-License-Identifier: Apache-2.0
"""onnxruntime as a worker of `peers.py`: the graphs of `peers_graph.py` on its CPU provider.

The output head is quantized like all other linear layers, as its quantizers do by default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from peers_common import GraphFeeds, Weights, main


def convert(options: dict[str, Any]) -> None:
    from peers_graph import write_decoder, write_tower

    weights, path = Weights(Path(options["weights"])), Path(options["path"])
    if options["precision"] == "tower":
        write_tower(path, weights)
    else:
        write_decoder(path, weights, options["precision"])


class OnnxRuntime:
    def __init__(self, options: dict[str, Any]) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options["threads"]
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        provider = ["CPUExecutionProvider"]
        self._decoder, self._tower = (
            onnxruntime.InferenceSession(options[path], settings, provider)
            for path in ("decoder", "tower")
        )
        self._feeds = GraphFeeds((len(self._decoder.get_inputs()) - 4) // 2)
        self.about = {
            "version": onnxruntime.__version__,
            "head": options["precision"],
            "unrestricted": "onnxruntime's kernels ask the CPU alone what they may use",
        }

    def read(self, rows: np.ndarray) -> np.ndarray:
        self._feeds.clear()
        return self.token(rows)

    def token(self, row: np.ndarray) -> np.ndarray:
        logits, *self._feeds.cache = self._decoder.run(None, self._feeds.feeds(row))
        found: np.ndarray = logits[0]
        return found

    def tower(self, pixels: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._tower.run(None, {"pixels": pixels})[0]
        return found


if __name__ == "__main__":
    main(convert, OnnxRuntime)
