# SPDX-License-Identifier: Apache-2.0
"""The vision encoder and the connector as graphs; see the protocols in `models.interface`."""

from __future__ import annotations

import numpy as np

from svd_vlm_ros.models.images import ProcessedImage
from svd_vlm_ros.onnx_runtime.selectors.features import Selection, VisualFeatures
from svd_vlm_ros.onnx_runtime.sessions import Graph
from svd_vlm_ros.onnx_runtime.tokens import Tokens
from svd_vlm_ros.selection.values import Need

# What the vision graph gives for a need beyond the patches.
_OUTPUTS: dict[Need, tuple[str, ...]] = {
    "class_attention": ("class_attention", "class_token"),
    "keys": ("keys", "class_key"),
}


class ExportEncoder:
    """From pixel values to the features of patches."""

    gives: frozenset[Need] = frozenset({"class_attention", "keys", "projected"})

    def __init__(self, graph: Graph, connector: ExportConnector) -> None:
        self._graph, self._connector = graph, connector

    def __call__(
        self,
        image: ProcessedImage,
        needs: frozenset[Need] = frozenset(),
        selector: object = None,
        budget: object = None,
    ) -> VisualFeatures:
        """Encode one image; `selector` and `budget` are None, since none works inside."""
        names = ["patches", *(name for need in needs for name in _OUTPUTS.get(need, ()))]
        pixels: np.ndarray = np.asarray(image.pixels)
        found = dict(zip(names, self._graph.run(names, {"pixel_values": pixels}), strict=True))
        if "projected" in needs:
            found["projected"] = self._connector.project(found["patches"])
        return VisualFeatures(grid=image.framing.grid, valid=image.framing.seen(), **found)


class ExportConnector:
    """Projects the kept rows only; see `models.projector`."""

    def __init__(self, graph: Graph, original: bool = False) -> None:
        """Take the graph.

        Args:
            graph: of the projector.
            original: whether the kept tokens keep their position ids.
        """
        self._graph, self._original = graph, original

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tokens:
        """The visual tokens [k, hidden] of what was kept, in the order of its patches."""
        if features.projected is not None:
            rows = features.projected[selection.indices]
        else:
            rows = self.project(features.patches[selection.indices])
        if self._original:
            return Tokens(rows, selection.indices, len(features))
        return Tokens.in_order(rows)

    def project(self, rows: np.ndarray) -> np.ndarray:
        """From what the encoder gives, [k, D], to the language model's embeddings [k, hidden]."""
        (tokens,) = self._graph.run(["tokens"], {"rows": rows})
        return tokens

    def room(self, features: VisualFeatures, kept: int) -> int:
        """The position ids that the visual tokens take up."""
        return len(features) if self._original else kept
