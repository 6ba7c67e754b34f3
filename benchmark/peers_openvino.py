# SPDX-License-Identifier: Apache-2.0
"""OpenVINO as a worker of `peers.py`: the graphs of `peers_graph.py`, weights compressed by nncf.

int8 and int4 are nncf's defaults: int8 asymmetric with a scale for each output; int4 symmetric in
groups of 128, with the output head in int8. Everything at run time is OpenVINO's default for
latency, which on CPUs with bfloat16 instructions computes in bfloat16. The cache goes in and out of
the graph; it is not made stateful, which at these lengths moves a few megabytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from peers_common import GraphFeeds, main


def convert(options: dict[str, Any]) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(options["decoder"])
    modes = {"int8": {}, "int4": {"mode": nncf.CompressWeightsMode.INT4_SYM}}
    model = nncf.compress_weights(model, **modes[options["precision"]])
    openvino.save_model(model, options["path"], compress_to_fp16=False)


class OpenVino:
    def __init__(self, options: dict[str, Any]) -> None:
        import openvino

        core = openvino.Core()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": options["threads"]}
        self._decoder, self._tower = (
            core.compile_model(options[path], "CPU", settings) for path in ("decoder", "tower")
        )
        self._feeds = GraphFeeds((len(self._decoder.inputs) - 4) // 2)
        used = self._decoder.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.about = {
            "version": openvino.__version__.partition("-")[0],
            "head": "fp32" if options["precision"] == "fp32" else "int8",
            "computes in": used,
            "unrestricted": "OpenVINO's own kernels and its fp32 products (the tower) ask the CPU "
            "alone what they may use; products of compressed weights are oneDNN's",
        }

    def read(self, rows: np.ndarray) -> np.ndarray:
        self._feeds.clear()
        return self.token(rows)

    def token(self, row: np.ndarray) -> np.ndarray:
        outputs = self._decoder(self._feeds.feeds(row))
        logits, *self._feeds.cache = (outputs[port] for port in self._decoder.outputs)
        found: np.ndarray = logits[0]
        return found

    def tower(self, pixels: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._tower({"pixels": pixels})[0]
        return found


if __name__ == "__main__":
    main(convert, OpenVino)
