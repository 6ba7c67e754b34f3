# SPDX-License-Identifier: Apache-2.0
"""Fetching a model from a hub into its usual cache, and proving that every byte arrived.

The way of a download: `list_files` (one question to the hub) -> `fetch_config` (a wrong kind of
model is refused before its gigabytes come) -> `fetch_weights` (large files, resumed where an
earlier run ended) -> `fetch_rest` (small files, and the cache's own book-keeping) -> `damaged`
(size and checksum of every file).

huggingface_hub starts an interrupted file anew. A robot's radio link can't bring 5 GB in one piece,
so the large files go through `fetch_weights`, which keeps what has arrived and asks for the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd_vlm_ros.cli.console import gigabytes
from svd_vlm_ros.cli.hub_errors import sentences
from svd_vlm_ros.errors import UserError

WANTED_ENDINGS = (".safetensors", ".json")
WANTED_NAMES = ("tokenizer.model", "merges.txt", "vocab.txt", "chat_template.jinja")
CHUNK = 1 << 22  # bytes read at a time for a checksum
Count = Callable[[int], object]
"""Called with the number of bytes that were done."""


@dataclass(frozen=True)
class HubFile:
    """One file of a model: its size in bytes, the sha256 of a large file, git's sha1 of a small
    one.
    """

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    @property
    def large(self) -> bool:
        """Whether the hub keeps it in its large-file storage, under its sha256."""
        return self.sha256 is not None


@dataclass(frozen=True)
class HubModel:
    """What a hub holds of a model at one commit: only the files that are wanted here."""

    name: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all wanted files."""
        return sum(file.size for file in self.files)


def list_files(model: str, revision: str) -> HubModel:
    """What a model consists of. `UserError`: unknown, gated, offline, no safetensors."""
    from huggingface_hub import HfApi

    with sentences(model, revision):
        info = HfApi().model_info(model, revision=revision, files_metadata=True)
    files = []
    for found in info.siblings or ():
        name = found.rfilename
        if name.endswith(WANTED_ENDINGS) or Path(name).name in WANTED_NAMES:
            sha256 = found.lfs.sha256 if found.lfs else None
            files.append(HubFile(name, found.size or 0, sha256, found.blob_id))
    names = {file.name for file in files}
    if "config.json" not in names:
        raise UserError(f"{model} has no config.json: it is no model that transformers could load.")
    if not any(name.endswith(".safetensors") for name in names):
        raise UserError(
            f"{model} has no safetensors weights, and pickled ones are never loaded: take another."
        )
    return HubModel(model, revision, info.sha or revision, tuple(files))


def fetch_config(model: HubModel) -> None:
    """Fetch config.json and refuse, before its weights are fetched, what is of no known family
    and no CLIP, by which some selectors compare the question with the image.
    """
    from huggingface_hub import hf_hub_download

    from svd_vlm_ros.models import family_of_config
    from svd_vlm_ros.models.files import read_json

    file = next(file for file in model.files if file.name == "config.json")
    for _ in range(2):
        with sentences(model.name, model.revision):
            path = Path(hf_hub_download(model.name, file.name, revision=model.commit))
        if is_whole(path, file):
            config = read_json(path)
            if config.get("model_type") != "clip":
                family_of_config(model.name, config)
            return
        remove(path.parent, file)
    raise UserError(damaged_twice(file.name))


def check_space(model: HubModel) -> None:
    """Raise `UserError` if the disk of the cache has no room for what is still to come."""
    blobs = _cache_folder(model) / "blobs"
    missing = model.size
    for file in model.files:
        for name in (file.sha256 or file.git_sha1 or "", f"{file.sha256}.part"):
            if (blobs / name).is_file():
                missing -= (blobs / name).stat().st_size
    parent = next(folder for folder in (blobs, *blobs.parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    if missing > free:
        raise UserError(
            f"{model.name} needs {gigabytes(missing)} more, but the disk of {parent} has "
            f"{gigabytes(free)} left: free some, or set HF_HOME to a folder on a larger disk."
        )


def fetch_weights(model: HubModel, count: Count) -> None:
    """Fetch the large files into the cache, each continued where an earlier, interrupted run ended.

    `count` is called with the bytes that arrive, and with those that are there already.
    """
    blobs = _cache_folder(model) / "blobs"
    for file in model.files:
        if not file.large:
            continue
        blob = blobs / str(file.sha256)
        if blob.exists():
            count(file.size)
            continue
        _make_folder(blobs)
        part = blobs / f"{file.sha256}.part"
        with sentences(model.name, model.revision), _CountedFile(part, count) as target:
            _lock(target, file.name)
            if target.size() > file.size:
                target.truncate(0)
            count(target.size())
            target.seek(0, io.SEEK_END)
            _continue(model, file, target)
        part.replace(blob)


def _continue(model: HubModel, file: HubFile, target: _CountedFile) -> None:
    """Append what is missing of a file. If the connection breaks, huggingface_hub tries again."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    http_get(
        hf_hub_url(model.name, file.name, revision=model.commit),
        target,  # type: ignore[arg-type]
        resume_size=target.size(),
        headers=build_hf_headers(),
        expected_size=file.size,
        displayed_filename=file.name,
    )


def fetch_rest(model: HubModel) -> Path:
    """Fetch the small files and let huggingface_hub link all files into its snapshot folder."""
    from huggingface_hub import snapshot_download

    with sentences(model.name, model.revision):
        folder = snapshot_download(
            model.name,
            revision=model.revision,  # by its name, so that the cache knows what e.g. "main" is
            allow_patterns=[file.name for file in model.files],
        )
    if Path(folder).name != model.commit:
        raise UserError(f"{model.name} was changed during the download: run the command again.")
    return Path(folder)


def damaged(model: HubModel, folder: Path, count: Count) -> list[HubFile]:
    """The files whose size or checksum is not the hub's. `count` is called with the bytes read."""
    return [file for file in model.files if not is_whole(folder / file.name, file, count)]


def is_whole(path: Path, file: HubFile, count: Count = lambda done: None) -> bool:
    """Whether a file has the size and the checksum that the hub gives."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.sha256:
        digest, wanted = hashlib.sha256(), file.sha256
    elif file.git_sha1:
        # git's checksum of a small file: sha1 over a header and the content
        digest, wanted = hashlib.sha1(f"blob {file.size}\0".encode()), file.git_sha1
    else:
        return True
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            count(len(chunk))
    return digest.hexdigest() == wanted


def damaged_twice(names: str) -> str:
    """The sentence for files that came damaged once more when they were fetched again."""
    return (
        f"{names} came damaged twice and was removed: something between here and the hub alters "
        "files, try another network."
    )


def remove(folder: Path, file: HubFile) -> None:
    """Remove a damaged file from the cache: its entry, and the content that the entry points to."""
    entry = folder / file.name
    content = entry.resolve()
    entry.unlink(missing_ok=True)
    content.unlink(missing_ok=True)


def _cache_folder(model: HubModel) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=model.name, repo_type="model")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Can't write to {folder} ({error.strerror}): set HF_HOME to a folder of yours."
        ) from error


def _lock(target: _CountedFile, name: str) -> None:
    """Two runs that append to one file would spoil it. The lock ends with the process."""
    try:
        fcntl.flock(target.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"Another download of {name} is running: wait for it to end.") from None


class _CountedFile(io.FileIO):
    """A file that is appended to and counts the bytes that come."""

    def __init__(self, path: Path, count: Count) -> None:
        super().__init__(path, "a+b")
        self._count = count

    def write(self, data: Any) -> int:
        written = super().write(data)
        self._count(written)
        return written

    def size(self) -> int:
        return os.fstat(self.fileno()).st_size

    def truncate(self, size: int | None = None) -> int:
        before = self.size()
        after = super().truncate(size)
        self._count(after - before)
        return after
