# SPDX-License-Identifier: Apache-2.0
"""Where an export's weights come from, one at a time: a checkpoint's files, or random numbers.

Both give weights under one set of names, those of transformers' own modules, whatever a
checkpoint's files call them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import INDEX, WEIGHTS, read_json

if TYPE_CHECKING:
    import torch
    from torch import nn

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16"}

# What older checkpoints call the parts that transformers' LLaVA names otherwise.
_NAMES = (
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^language_model\.model\."), "model.language_model."),
    (re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?"), "model.vision_tower."),
    (re.compile(r"^multi_modal_projector\."), "model.multi_modal_projector."),
)


def canonical(name: str) -> str:
    """A weight's name as transformers' own LLaVA has it."""
    for pattern, put in _NAMES:
        name, found = pattern.subn(put, name)
        if found:
            break
    return name


class Checkpoint:
    """Weights in a folder of safetensors, in one file or several; bfloat16 included."""

    def __init__(self, name: str, folder: Path) -> None:
        """Read the headers. Raises `UserError` if a file is damaged."""
        self._name, self._folder = name, folder
        self._places: dict[str, tuple[Path, str, tuple[int, ...], int, int]] = {}
        files = {WEIGHTS}
        if (folder / INDEX).is_file():
            files = set(read_json(folder / INDEX).get("weight_map", {}).values()) or files
        for file in sorted(files):
            self._read_header(folder / file)

    def has(self, name: str) -> bool:
        """Whether there is a weight of this name."""
        return name in self._places

    def read(self, name: str) -> np.ndarray:
        """A weight in its own dtype. Raises `UserError` if it is missing or damaged."""
        if name not in self._places:
            raise UserError(
                f"The weight {name} of {self._name} is missing in {self._folder}: fetch the model "
                "again."
            )
        path, kind, shape, begin, count = self._places[name]
        dtype = np.dtype(_bfloat16() if kind == "BF16" else DTYPES[kind])
        try:
            found = np.fromfile(path, dtype=dtype, count=count, offset=begin)
        except OSError as error:
            raise UserError(f"{path} can't be read ({error}): fetch the model again.") from error
        if len(found) != count:
            raise UserError(f"{path} is truncated: fetch the model again.")
        return found.reshape(shape)

    def each_layer(self, use: Callable[[int], None], layers: int) -> None:
        """Call `use` with the index of each layer of the decoder, in order."""
        for index in range(layers):
            use(index)

    def _read_header(self, path: Path) -> None:
        size = path.stat().st_size
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > size:
                    raise ValueError("its header is longer than the file")
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                first, last = entry["data_offsets"]
                if 8 + length + last > size:
                    raise ValueError("it is truncated")
                kind, shape = entry["dtype"], tuple(entry["shape"])
                if kind not in DTYPES:
                    raise UserError(
                        f"The weights of {self._name} are of the kind {kind}, which can't be "
                        "exported: take the original ones in 16 or 32 bits."
                    )
                place = path, kind, shape, 8 + length + first, int(np.prod(shape))
                self._places[canonical(name)] = place
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"The weights of {self._name} in {path} are damaged ({error}): fetch the model "
                "again."
            ) from error


class RandomWeights:
    """The weights of a random model, made layer by layer as `models.load` makes them.

    The decoder's layers are made in `each_layer`, one in memory at a time; all else is there
    afterwards.
    """

    def __init__(self, build: Callable[[Callable[[int, nn.Module], None]], nn.Module]) -> None:
        """Take what builds the model and hands over its layers."""
        self._build = build
        self._held: Mapping[str, torch.Tensor] = {}

    def has(self, name: str) -> bool:
        """Whether there is a weight of this name."""
        return name in self._held

    def read(self, name: str) -> np.ndarray:
        """A weight in its own dtype."""
        found: np.ndarray = self._held[name].detach().numpy()
        return found

    def each_layer(self, use: Callable[[int], None], layers: int) -> None:
        """Call `use` with the index of each layer of the decoder while it is in memory."""

        def take(index: int, layer: nn.Module) -> None:
            prefix = f"model.language_model.layers.{index}."
            self._held = {prefix + name: each for name, each in layer.state_dict().items()}
            use(index)
            self._held = {}

        model = self._build(take)
        self._held = {canonical(name): each for name, each in model.state_dict().items()}


Source = Checkpoint | RandomWeights


class Part:
    """The weights of one part of a model, by the names below it."""

    def __init__(
        self, source: Source, prefix: str, on_read: Callable[[int], object] | None = None
    ) -> None:
        """Take a source, what stands in front of the names, and what is told of each weight."""
        self._source, self._prefix, self._on_read = source, prefix, on_read

    def has(self, name: str) -> bool:
        """Whether there is a weight of this name."""
        return self._source.has(self._full(name))

    def read(self, name: str) -> np.ndarray:
        """A weight in its own dtype."""
        found = self._source.read(self._full(name))
        if self._on_read is not None:
            self._on_read(found.size)
        return found

    def _full(self, name: str) -> str:
        return self._prefix + name


class LanguagePart(Part):
    """The weights of a language model, its head among them: the embeddings if both are one."""

    def __init__(
        self, source: Source, prefix: str, on_read: Callable[[int], object] | None, *, tied: bool
    ) -> None:
        """See `Part`; `tied`: whether the head is the table of embeddings."""
        super().__init__(source, prefix, on_read)
        self._tied = tied

    def _full(self, name: str) -> str:
        if not name.startswith("lm_head."):
            return self._prefix + name
        tied = self._tied and name == "lm_head.weight" and not self._source.has(name)
        return f"{self._prefix}embed_tokens.weight" if tied else name


def _bfloat16() -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16
