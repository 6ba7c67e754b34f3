# SPDX-License-Identifier: Apache-2.0
"""The graphs of an export in onnxruntime: on which device, by which execution providers.

The order is TensorRT, CUDA, CPU. "auto" takes the first that is there: TensorRT only if the export
has been made ready for it (`svd-vlm export tensorrt` writes the sizes that its engines serve;
without them it would build another engine, for minutes, for every size that is new); CUDA if this
onnxruntime has it; else the CPU. What a provider can't compute, the next one does; the CPU computes
everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import read_json
from svd_vlm_ros.onnx_runtime.manifest import Manifest

TENSORRT = "tensorrt"  # the folder of its engines, inside the export
OPTIONS = "provider_options.json"  # in that folder: the provider's options for each graph
_PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_DEVICE = re.compile(r"(cuda|tensorrt)(?::(\d+))?")


@dataclass(frozen=True)
class Device:
    """Where graphs run.

    Attributes:
        kind: "cpu", "cuda" or "tensorrt".
        index: of the GPU.
    """

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def memory(self) -> str:
        """Where its arrays lie, in onnxruntime's words."""
        return "cpu" if self.kind == "cpu" else "cuda"


def resolve_device(device: str, folder: Path) -> Device:
    """The device that a user's word means.

    Args:
        device: auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N.
        folder: of the export.

    Raises:
        UserError: it is not known, or this onnxruntime has no provider for it.
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if device == "auto":
        if (folder / TENSORRT / OPTIONS).is_file() and _PROVIDERS["tensorrt"] in there:
            return Device("tensorrt")
        return Device("cuda" if _PROVIDERS["cuda"] in there else "cpu")
    if device == "cpu":
        return Device("cpu")
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise UserError(
            f"There is no device '{device}': take auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N."
        )
    if _PROVIDERS[match[1]] not in there:
        raise UserError(
            f"The device {device} was asked for, but this onnxruntime has no {match[1]}: install "
            "onnxruntime-gpu in place of onnxruntime, or take cpu."
        )
    if match[1] == "tensorrt" and not (folder / TENSORRT / OPTIONS).is_file():
        raise UserError(
            f"{folder} has no sizes for TensorRT: write them with 'svd-vlm export tensorrt "
            f"{folder}'."
        )
    return Device(match[1], int(match[2] or 0))


class Graph:
    """A graph in a session of its own.

    Attributes:
        device: where it runs.
    """

    def __init__(self, manifest: Manifest, name: str, wish: str, cpu_threads: int) -> None:
        """Open a graph.

        Args:
            manifest: of the export.
            name: of the graph's file.
            wish: see `resolve_device`.
            cpu_threads: 0: as many as onnxruntime likes.

        Raises:
            UserError: the graph can't be opened, or a GPU that was named can't be used.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if cpu_threads:
            options.intra_op_num_threads = cpu_threads
        for key, value in manifest.session.items():
            options.add_session_config_entry(key, value)
        path, device = manifest.path(name), resolve_device(wish, manifest.folder)
        try:
            self.session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=_providers(device, path)
            )
        except Exception as error:  # onnxruntime's own have no common class
            first = (str(error).splitlines() or [""])[0][:200]
            raise UserError(f"{path} can't be opened on {device} ({first}).") from error
        self.device = self._obtained(device, wish)
        self._dtypes = {each.name: dtype_of(each.type) for each in self.session.get_inputs()}

    def dtype(self, name: str) -> np.dtype[Any]:
        """Of an input."""
        return self._dtypes[name]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Compute outputs [in NumPy] of inputs, which are brought into the dtypes of the graph."""
        fitted = {
            name: np.ascontiguousarray(value, dtype=self._dtypes[name])
            for name, value in feeds.items()
        }
        found: list[np.ndarray] = self.session.run(list(outputs), fitted)
        return found

    def _obtained(self, device: Device, wish: str) -> Device:
        """The device of the session: onnxruntime goes on without a GPU that it can't use."""
        provider = self.session.get_providers()[0]
        (kind,) = [kind for kind, name in _PROVIDERS.items() if name == provider] or ["cpu"]
        if kind != device.kind and wish != "auto":
            raise UserError(
                f"The device {wish} was asked for, but onnxruntime can't use it here (are the "
                "libraries of CUDA, cuDNN or TensorRT missing?): take cpu."
            )
        return Device(kind, device.index if kind != "cpu" else 0)


def _providers(device: Device, graph: Path) -> list[Any]:
    providers: list[Any] = ["CPUExecutionProvider"]
    index = str(device.index)
    if device.kind in ("cuda", "tensorrt"):
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    if device.kind == "tensorrt":
        providers.insert(0, ("TensorrtExecutionProvider", {"device_id": index, **_engine(graph)}))
    return providers


def _engine(graph: Path) -> dict[str, str]:
    """TensorRT's options for a graph; where its engines lie, from wherever this process runs."""
    folder = graph.parent / TENSORRT
    options = read_json(folder / OPTIONS).get(graph.name)
    if not isinstance(options, dict):
        raise UserError(
            f"{folder / OPTIONS} has no options for {graph.name}: write it anew with 'svd-vlm "
            f"export tensorrt {graph.parent}'."
        )
    paths = {name: str(folder) for name in options if name.endswith("_path")}
    return {**options, **paths}


def dtype_of(words: str) -> np.dtype[Any]:
    """The dtype of onnxruntime's "tensor(float16)"."""
    name = words.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))
