# SPDX-License-Identifier: Apache-2.0
"""What `peers.py` makes once in its folder: an environment for each peer, the weights, and each
peer's own files of them. What is there and complete is not made again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COMPLETE = "complete"  # a file in a folder that nothing is missing of

PACKAGES = {
    "llama.cpp": ("llama-cpp-python", "gguf", "safetensors", "numpy"),
    "onnxruntime": ("onnxruntime", "onnx", "safetensors", "numpy"),
    "OpenVINO": ("openvino", "nncf", "numpy"),
}
SCRIPTS = {
    "ours": "peers_ours.py",
    "llama.cpp": "peers_llama_cpp.py",
    "onnxruntime": "peers_onnxruntime.py",
    "OpenVINO": "peers_openvino.py",
}
# Without GGML_NATIVE it is built for AVX2, FMA, F16C and BMI2, whatever this CPU has.
LLAMA_CPP = "-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DGGML_NATIVE="
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


@dataclass(frozen=True)
class Setup:
    """What the steps depend on.

    Attributes:
        folder: of everything that is made.
        python: where this package is installed.
        layers: of the language model.
        threads: of every library.
        avx2: whether the libraries are restricted to AVX2.
    """

    folder: Path
    python: str
    layers: int
    threads: int
    avx2: bool

    @property
    def files(self) -> Path:
        return self.folder / f"layers-{self.layers}"

    @property
    def weights(self) -> Path:
        return self.files / "weights"

    def environment(self) -> dict[str, str]:
        """Of the processes that convert and measure."""
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        found = {**os.environ, **dict.fromkeys(threads, str(self.threads))}
        # nncf would report each use to its makers: consent is asked for, and kept, in a home.
        found["HOME"] = str(self.folder / "home")
        return {**found, **AVX2} if self.avx2 else found

    def python_of(self, peer: str) -> str:
        """The Python of a peer's environment."""
        if peer == "ours":
            return self.python
        return str(self._virtual(peer) / "bin" / "python")

    def _virtual(self, peer: str) -> Path:
        # llama.cpp is compiled here, for the instructions that it may use.
        restricted = "-avx2" if self.avx2 and peer == "llama.cpp" else ""
        name = peer.lower().replace(".", "_") + restricted
        return self.folder / "envs" / name

    def install(self, peer: str) -> None:
        """Make a peer's environment."""
        place = self._virtual(peer)
        if peer == "ours" or (place / COMPLETE).exists():
            return
        say(f"environment of {peer}")
        venv.create(place, clear=True, with_pip=True)  # what is there is not whole
        variables = dict(os.environ)
        command = [self.python_of(peer), "-m", "pip", "install", "--quiet"]
        if peer == "llama.cpp":
            variables["CMAKE_ARGS"] = LLAMA_CPP + ("OFF" if self.avx2 else "ON")
            variables.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(self.threads))
            command += ["--no-cache-dir", "--no-binary", "llama-cpp-python"]
        subprocess.run([*command, *PACKAGES[peer]], check=True, env=variables)
        if peer == "OpenVINO":
            self._decline_telemetry(place)
        (place / COMPLETE).touch()

    def _decline_telemetry(self, place: Path) -> None:
        (self.folder / "home").mkdir(exist_ok=True)
        command = [str(place / "bin" / "opt_in_out"), "--opt_out"]
        subprocess.run(command, check=True, env=self.environment(), stdout=subprocess.DEVNULL)

    def convert(self, peer: str, precision: str) -> dict[str, Any]:
        """Make the files of a peer in a precision; what its worker gets of them."""
        self.files.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"precision": precision, "threads": self.threads}
        weights = self._file("weights", "ours", {"layers": self.layers})
        options["weights"] = str(weights)
        if peer == "llama.cpp":
            f16 = self._file("F16.gguf", peer, options | {"precision": "F16"})
            path = f16
            if precision != "F16":
                path = self._file(f"{precision}.gguf", peer, options | {"f16": str(f16)})
            options["decoder"] = str(path)
        elif peer != "ours":
            name = "fp32" if peer == "OpenVINO" else precision
            path = self._graph(f"decoder-{name}", options | {"precision": name})
            if peer == "OpenVINO" and precision != "fp32":
                made = f"openvino-{precision}"
                path = self._file(f"{made}.xml", peer, options | {"decoder": str(path)})
            options["decoder"] = str(path)
            options["tower"] = str(self._graph("tower", options | {"precision": "tower"}))
        return options

    def _graph(self, name: str, options: dict[str, Any]) -> Path:
        self.install("onnxruntime")  # which OpenVINO's files are made with, too
        return self._file(f"{name}.onnx", "onnxruntime", options)

    def _file(self, name: str, peer: str, options: dict[str, Any]) -> Path:
        """A file or folder that a worker's `convert` makes."""
        path, done = self.files / name, self.files / f"{name}.{COMPLETE}"
        if not done.exists():
            say(f"{path.relative_to(self.folder)}")
            command = self.command(peer, "convert", options | {"path": str(path)})
            subprocess.run(command, check=True, env=self.environment(), stdout=sys.stderr)
            done.touch()
        return path

    def command(self, peer: str, action: str, options: dict[str, Any]) -> list[str]:
        """What runs a worker's script."""
        script = str(HERE / SCRIPTS[peer])
        return [self.python_of(peer), script, action, json.dumps(options)]


def say(text: str) -> None:
    """To the one who waits."""
    print(text, file=sys.stderr, flush=True)
