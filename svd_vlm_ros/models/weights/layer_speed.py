# SPDX-License-Identifier: Apache-2.0
"""How fast this CPU multiplies in each precision: one layer of a model's own size, measured once.

What is fastest depends on the CPU's instructions, its memory, its threads and the sizes of the
model, so it is measured: some milliseconds for a small model, two seconds for the layers of
LLaVA-1.5-7B. The result is kept in the user's cache folder for as long as CPU, threads and versions
stay the same.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from svd_vlm_ros.cpu import cpu_class, cpu_name
from svd_vlm_ros.models.weights import kernels
from svd_vlm_ros.planning.flops import vision_work
from svd_vlm_ros.planning.shapes import ModelSizes
from svd_vlm_ros.planning.views import TYPICAL, Size

READ_ROWS = 66  # 16 visual tokens and a question
VISION_ROWS = 128
ROUNDS = 3
# Seconds of a layer in one pass beside its products: norms, attention, Python. As scout shows it,
# whose products take next to nothing; small models would else seem to differ by too much.
BESIDE = 4e-4


@dataclass(frozen=True)
class LayerSpeed:
    """Seconds that this CPU takes in one precision for products of one layer.

    Attributes:
        read: `READ_ROWS` rows by the first matrix of the language model's MLP.
        token: one row by the same.
        vision: `VISION_ROWS` rows by the first matrix of the tower's MLP.
    """

    read: float
    token: float
    vision: float

    def answer(
        self, model: ModelSizes, rows: int = READ_ROWS, tokens: int = 16, image: Size = TYPICAL
    ) -> float:
        """About how many seconds an answer of `tokens` tokens takes, from the image on."""
        return self.first_token(model, rows, image) + (tokens - 1) * self.each_token(model)

    def first_token(self, model: ModelSizes, rows: int = READ_ROWS, image: Size = TYPICAL) -> float:
        """About how many seconds pass from an image to the first token.

        The tower encodes all patches of the image, however few tokens are kept of it.

        Args:
            model: its sizes.
            rows: visual tokens and question. Below `READ_ROWS` they are taken to be as many: the
                weights are read all the same.
            image: its size.
        """
        text, tower = model.decoder, model.tower
        parts = text.linear_weights / (text.hidden * text.intermediate)
        reading = parts * self.read * max(rows, READ_ROWS) / READ_ROWS
        products = tower.hidden * tower.intermediate * VISION_ROWS
        seeing = self.vision * vision_work(tower, model.view(image)) / products
        return reading + seeing + (text.layers + tower.layers_used) * BESIDE

    def each_token(self, model: ModelSizes) -> float:
        """About how many seconds each further token takes, the output head left out."""
        text = model.decoder
        products = text.linear_weights / (text.hidden * text.intermediate) * self.token
        return products + text.layers * BESIDE


def layer_speeds(
    model: ModelSizes, precisions: Sequence[str], *, stock: bool = False, fresh: bool = False
) -> dict[str, LayerSpeed]:
    """The speed of each precision on this CPU, from the cache where it is there.

    Args:
        model: whose sizes are taken.
        precisions: some of `precision.PRECISIONS`; bitsandbytes is there where one is quantized.
        stock: as torch and bitsandbytes have the layers, not laid out.
        fresh: measure anew.
    """
    key = _key(model, stock)
    known = {} if fresh else _read().get(key, {})
    missing = [precision for precision in precisions if precision not in known]
    if missing:
        known = known | _measure(model, missing, stock)
        _write(key, known)
    return {precision: known[precision] for precision in precisions}


@torch.inference_mode()
def _measure(model: ModelSizes, precisions: Sequence[str], stock: bool) -> dict[str, LayerSpeed]:
    """Interleaved, so that a machine that is busy for a moment is so for all; the least counts."""
    products = {precision: _products(model, precision, stock) for precision in precisions}
    least: dict[tuple[str, str], float] = {}
    for _ in range(ROUNDS + 1):
        for precision, some in products.items():
            for name, product in some.items():
                begun = time.perf_counter()
                product()
                taken = time.perf_counter() - begun
                least[precision, name] = min(taken, least.get((precision, name), taken))
    return {
        precision: LayerSpeed(**{name: least[precision, name] for name in some})
        for precision, some in products.items()
    }


def _products(model: ModelSizes, precision: str, stock: bool) -> dict[str, Callable[[], object]]:
    from svd_vlm_ros.models.weights.packed import pack
    from svd_vlm_ros.models.weights.precision import QUANTIZED, compute_dtype, quantize_linears

    dtype = compute_dtype(precision, torch.device("cpu"))
    text, tower = model.decoder, model.tower
    # Named as in a LLaVA: how a layer is laid out depends on where it is.
    layers = nn.ModuleDict(
        {
            "language_model": nn.Sequential(_layer(text.hidden, text.intermediate, dtype)),
            "vision_tower": nn.Sequential(_layer(tower.hidden, tower.intermediate, dtype)),
        }
    )
    if precision in QUANTIZED:
        quantize_linears(layers["language_model"], precision, dtype)
    if not stock:
        pack(layers)
    layers.eval()
    rows = {
        name: torch.linspace(-1, 1, count * inputs).view(count, inputs).to(dtype)
        for name, count, inputs in (
            ("read", READ_ROWS, text.hidden),
            ("token", 1, text.hidden),
            ("vision", VISION_ROWS, tower.hidden),
        )
    }
    language, vision = layers["language_model"], layers["vision_tower"]
    return {
        "read": functools.partial(language, rows["read"]),
        "token": functools.partial(language, rows["token"]),
        "vision": functools.partial(vision, rows["vision"]),
    }


def _layer(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    weight = torch.linspace(-1, 1, inputs * outputs).view(outputs, inputs)
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    return layer


def _key(model: ModelSizes, stock: bool) -> str:
    """All that the speeds depend on."""
    text, tower = model.decoder, model.tower
    versions = [torch.__version__, *map(_version, ("svd_vlm_ros", "bitsandbytes"))]
    sizes = text.hidden, text.intermediate, tower.hidden, tower.intermediate
    kernel = "stock" if stock else " ".join(kernels.kernels()) or "no kernels"
    return json.dumps([cpu_name(), cpu_class(), torch.get_num_threads(), *versions, kernel, *sizes])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def cache_file() -> Path:
    """Where the speeds are kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "svd_vlm_ros" / "layer_speeds.json"


def _read() -> dict[str, dict[str, LayerSpeed]]:
    """What is kept; nothing where the file is missing or is not what it should be."""
    try:
        kept = json.loads(cache_file().read_text(encoding="utf-8"))
        return {
            key: {name: LayerSpeed(**speed) for name, speed in speeds.items()}
            for key, speeds in kept.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(key: str, speeds: Mapping[str, LayerSpeed]) -> None:
    """Keep speeds; where the folder can't be written they are measured again the next time."""
    kept = {name: {p: asdict(s) for p, s in some.items()} for name, some in _read().items()}
    kept[key] = {precision: asdict(speed) for precision, speed in speeds.items()}
    path = cache_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        part.replace(path)  # whole or not at all: several processes may write
