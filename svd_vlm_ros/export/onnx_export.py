# SPDX-License-Identifier: Apache-2.0
"""From a model to a folder of ONNX graphs, a table of embeddings, a tokenizer and a manifest.

The graphs are written by hand and weight by weight, so that an export needs the memory of one
weight, whatever the model's size; `docs/export.md` says what stands in the folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import svd_vlm_ros
from svd_vlm_ros import models
from svd_vlm_ros.defaults import SELECTOR, VISUAL_TOKENS
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.checks import check_graph
from svd_vlm_ros.export.decoder import DecoderWriter
from svd_vlm_ros.export.folder import check_place, file_digest, new_folder
from svd_vlm_ros.export.graph import Graph, fit
from svd_vlm_ros.export.llava import LlavaSource
from svd_vlm_ros.export.precision import Numbers
from svd_vlm_ros.export.vision import write_clip, write_projector
from svd_vlm_ros.models.llava.architecture import vision_config, vision_layers
from svd_vlm_ros.onnx_runtime.manifest import DECODER, EMBEDDINGS, PROJECTOR, VISION, Manifest

Progress = Callable[[str, int, int], object]
"""Is told which part is being written, the weights done and those in all."""

FAMILIES = ("llava",)
# onnxruntime makes MatMulNBits of the blocks when it loads; these multiply integers, the fast way.
SESSION = {"session.qdq_matmulnbits_accuracy_level": "4"}


def export_onnx(
    model: str,
    out: Path,
    *,
    precision: str = "fp32",
    activations: str = "auto",
    on_progress: Progress | None = None,
) -> Path:
    """Write a model as ONNX graphs.

    Args:
        model: scout, a folder, a hub id in the local cache, or random:*.
        out: the folder to make: absent or empty. It is there only if all of it was written.
        precision: fp32, fp16, int8 or int4; see `precision.py`.
        activations: auto, or float16 for int8 and int4 on a GPU.
        on_progress: see `Progress`.

    Returns:
        The folder.

    Raises:
        UserError: the model is not on this machine or of a family that can't be exported; the
            folder is not empty; the disk is too full.
    """
    numbers = Numbers.of(precision, activations)
    check_place(out)
    family = models.family_of(model)
    if family.model_type not in FAMILIES:
        raise UserError(
            f"Models of the family '{family.model_type}' can't be exported yet: "
            f"{', '.join(FAMILIES)} can."
        )
    sizes = family.sizes(model)
    linear = sizes.decoder.linear_weights
    room = numbers.size(linear, sizes.weights - linear)
    source = LlavaSource.open(model, numbers)
    with new_folder(out, room + room // 100) as folder:
        _Export(source, folder, numbers, sizes.weights, on_progress).run()
    return out


class _Export:
    """One export into a folder that nobody else sees yet."""

    def __init__(
        self,
        source: LlavaSource,
        folder: Path,
        numbers: Numbers,
        total: int,
        on_progress: Progress | None,
    ) -> None:
        self._source, self._folder, self._numbers = source, folder, numbers
        self._total, self._done, self._part = total, 0, ""
        self._on_progress = on_progress
        self._digests: dict[str, str] = {}
        self._tensors: dict[str, Any] = {}

    def run(self) -> None:
        """Write everything, the manifest last."""
        source, config = self._source, self._source.config
        # First, since a random model hands over its layers while it is made.
        self._decoder()
        with self._graph(VISION) as graph:
            layers = vision_layers(config)
            write_clip(graph, source.tower(self._count), vision_config(config), layers)
        self._finish(graph)
        with self._graph(PROJECTOR) as graph:
            write_projector(graph, source.projector(self._count), config)
        self._finish(graph)
        self._part = EMBEDDINGS
        table = source.language(self._count).read("embed_tokens.weight")
        table = fit(table, self._numbers.store, "embed_tokens.weight")
        np.save(self._folder / EMBEDDINGS, np.ascontiguousarray(table), allow_pickle=False)
        del table
        source.write_files(self._folder)
        self._manifest()

    def _decoder(self) -> None:
        source, bits = self._source, self._numbers.bits
        shape = source.shape()
        with self._graph(DECODER) as graph:
            writer = DecoderWriter(graph, shape, source.language(self._count), bits)
            writer.begin()
            source.weights.each_layer(writer.layer, shape.layers)
            writer.finish()
        self._finish(graph, quantized=shape.quantized if bits else 0)

    def _graph(self, name: str) -> Graph:
        self._part = name
        numbers = self._numbers
        return Graph(
            self._folder / name,
            opset=numbers.opset,
            compute=numbers.compute,
            store=numbers.store,
        )

    def _finish(self, graph: Graph, quantized: int = 0) -> None:
        check_graph(graph.path, quantized)
        self._digests[graph.data_path.name] = graph.data_sha256
        self._tensors[graph.path.name] = graph.tensors

    def _count(self, numbers: int) -> None:
        self._done = min(self._done + numbers, self._total)
        if self._on_progress is not None:
            self._on_progress(self._part, self._done, self._total)

    def _manifest(self) -> None:
        source, numbers = self._source, self._numbers
        files = {}
        for path in sorted(self._folder.iterdir()):
            digest = self._digests.get(path.name) or file_digest(path)
            files[path.name] = {"sha256": digest, "bytes": path.stat().st_size}
        Manifest(
            svd_vlm_ros=svd_vlm_ros.__version__,
            model=source.name,
            model_type=str(source.config.model_type),
            precision=numbers.precision,
            activations=numbers.compute.name,
            opset=numbers.opset,
            files=files,
            sizes=source.sizes(),
            tensors=self._tensors,
            prompt=source.prompt(),
            preprocess=source.preprocess(),
            aspects=source.images.aspects,
            random_weights=source.name.startswith("random:"),
            defaults={
                "selector": SELECTOR,
                "visual_tokens": VISUAL_TOKENS,
                "position_policy": "contiguous",
            },
            session=SESSION if numbers.bits else {},
            license=source.license(),
            folder=self._folder,
        ).write()
