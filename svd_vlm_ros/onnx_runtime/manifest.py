# SPDX-License-Identifier: Apache-2.0
"""`manifest.json`: what an exported folder holds, and whether it still holds it.

    manifest = Manifest.read(folder)     # UserError: damaged, incomplete, or of another version
    manifest.sizes["hidden"], manifest.path("decoder.onnx")

The exporter writes it last; the runtime reads it first. Neither torch nor transformers is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from svd_vlm_ros.errors import UserError

FORMAT = 1  # raised whenever an older runtime would misread a newer folder, or the reverse
NAME = "manifest.json"
VISION, PROJECTOR, DECODER = "vision.onnx", "projector.onnx", "decoder.onnx"
GRAPHS = (VISION, PROJECTOR, DECODER)
EMBEDDINGS, TOKENIZER = "embeddings.npy", "tokenizer.json"
REQUIRED = (*GRAPHS, EMBEDDINGS, TOKENIZER)
_CHUNK = 1 << 22  # bytes that are read at a time

Progress = Callable[[int, int], object]
"""Is told bytes done and bytes in all."""


@dataclass(frozen=True)
class Manifest:
    """What an exported folder holds.

    Attributes:
        svd_vlm_ros: the version of this package that wrote it.
        model: the name that was exported.
        model_type: its family.
        precision: fp32, fp16, int8 or int4.
        opset: of the graphs.
        activations: float32 or float16: of activations and cache; what goes in and comes out of
            the graphs beside the cache is float32 always.
        files: {name: {"sha256": hex digits, "bytes": count}} of every file but this one.
        sizes: hidden, layers, heads, kv_heads, head_dim, vocabulary, context, patches [rows,
            columns], image_size, vision_width, vision_heads, class_token.
        tensors: {graph: {"inputs" or "outputs": {name: [dtype, shape]}}}; a free size is a name.
        prompt: what makes the same prompts as the family's: kind, image_token, image_token_id,
            end_token_ids, template {user, system, answer}, bos_token, unk_token_id,
            special_tokens, special_ids.
        preprocess: mean and std of the channels, rescale, size, patch, resample (Pillow's number).
        aspects: ways in which an image becomes a square, the default first.
        random_weights: the answers mean nothing.
        defaults: selector, visual_tokens, position_policy.
        session: {key: value}, for `SessionOptions.add_session_config_entry` of onnxruntime.
        license: of the weights; None: not known.
        format: of the folder.
        folder: that was read; not written.
    """

    svd_vlm_ros: str
    model: str
    model_type: str
    precision: str
    opset: int
    files: Mapping[str, Mapping[str, Any]]
    sizes: Mapping[str, Any]
    tensors: Mapping[str, Any]
    prompt: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    aspects: tuple[str, ...]
    random_weights: bool
    defaults: Mapping[str, Any]
    session: Mapping[str, str] = field(default_factory=dict)
    license: str | None = None
    activations: str = "float32"
    format: int = FORMAT
    folder: Path = Path()

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.folder / name

    def embeddings(self) -> np.ndarray:
        """The table [vocabulary, hidden], float32 or float16, mapped into memory, not read."""
        table: np.ndarray = np.load(self.path(EMBEDDINGS), mmap_mode="r", allow_pickle=False)
        return table

    def write(self) -> None:
        """Write it into its folder."""
        content = asdict(self)
        del content["folder"]
        text = json.dumps(content, indent=2, ensure_ascii=False)
        self.path(NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(
        cls, folder: Path, *, checksums: bool = True, on_progress: Progress | None = None
    ) -> Manifest:
        """Read a folder's manifest and check its files.

        Args:
            folder: that `export_onnx` wrote.
            checksums: also read every file and compare its SHA-256: a second for each 0.5 to 2 GB.
                Without it only the files' sizes are compared.
            on_progress: of that.

        Raises:
            UserError: the folder is none, or of another version; the named file is missing,
                truncated, or not the one that was exported.
        """
        manifest = _parse(Path(folder).expanduser())
        for name, wanted in manifest.files.items():
            _check_size(manifest.path(name), int(wanted["bytes"]))
        if checksums:
            total, done = sum(int(each["bytes"]) for each in manifest.files.values()), 0
            for name, wanted in manifest.files.items():
                digest = hashlib.sha256()
                with open(manifest.path(name), "rb") as file:
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
                        done += len(chunk)
                        if on_progress is not None:
                            on_progress(done, total)
                if digest.hexdigest() != wanted["sha256"]:
                    raise UserError(
                        f"{manifest.path(name)} is damaged or is not the file that was exported "
                        "(its checksum differs): export the model again."
                    )
        _check_table(manifest)
        return manifest


def _parse(folder: Path) -> Manifest:
    path = folder / NAME
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: make one with 'svd-vlm export onnx'.")
    if not path.is_file():
        raise UserError(
            f"{path} is missing: {folder} is no exported model, or its export was cut off; make "
            "one with 'svd-vlm export onnx'."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}): export the model again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: export the model again.")
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path} is of format {content.get('format')} (svd_vlm_ros "
            f"{content.get('svd_vlm_ros')}), this version reads format {FORMAT}: export the model "
            "again."
        )
    known: dict[str, Any] = {
        name: content[name] for name in Manifest.__dataclass_fields__ if name in content
    }
    try:
        known["aspects"] = tuple(known["aspects"])
        manifest = Manifest(**known, folder=folder)
        _check_fields(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is incomplete ({error}): export the model again.") from error
    return manifest


_SIZES = (
    *("hidden", "layers", "heads", "kv_heads", "head_dim", "vocabulary", "context"),
    *("image_size", "vision_width", "vision_heads"),
)
_OTHERS = {
    "prompt": ("kind", "image_token_id", "end_token_ids", "template"),
    "preprocess": ("mean", "std", "size", "rescale", "resample"),
    "defaults": ("selector", "visual_tokens", "position_policy"),
    "tensors": GRAPHS,
}


def _check_fields(manifest: Manifest) -> None:
    """Raise `KeyError`, `TypeError` or `ValueError` if something is not as it is written."""
    for name in REQUIRED:
        if name not in manifest.files:
            raise ValueError(f"it does not name {name}")
    for name, wanted in manifest.files.items():
        if Path(name).name != name or name in ("", ".", "..", NAME):
            raise ValueError(f"'{name}' is no file's name")
        if not isinstance(wanted["bytes"], int) or not isinstance(wanted["sha256"], str):
            raise ValueError(f"{name} has no size or checksum")
    for name in _SIZES:
        if not isinstance(manifest.sizes[name], int):
            raise TypeError(f"{name} is no number")
    rows, columns = manifest.sizes["patches"]
    if not isinstance(rows * columns, int):
        raise TypeError("patches are no numbers")
    for part, names in _OTHERS.items():
        missing = [name for name in names if name not in getattr(manifest, part)]
        if missing:
            raise ValueError(f"{part} lacks {missing[0]}")


def _check_size(path: Path, wanted: int) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing: export the model again.")
    size = path.stat().st_size
    if size != wanted:
        raise UserError(
            f"{path} has {size} bytes in place of {wanted}: it is truncated or is not the file "
            "that was exported; export the model again."
        )


def _check_table(manifest: Manifest) -> None:
    """The embeddings are opened unread, so their shape is looked at here."""
    wanted = manifest.sizes["vocabulary"], manifest.sizes["hidden"]
    try:
        found = manifest.embeddings().shape
    except (OSError, ValueError) as error:
        raise UserError(
            f"{manifest.path(EMBEDDINGS)} can't be read ({error}): export the model again."
        ) from error
    if found != wanted:
        raise UserError(
            f"{manifest.path(EMBEDDINGS)} is a table of {found}, the manifest says {wanted}: "
            "export the model again."
        )
