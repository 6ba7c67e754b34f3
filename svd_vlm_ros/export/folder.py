# SPDX-License-Identifier: Apache-2.0
"""A folder that is whole or not there: written beside its place, renamed at the end."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from svd_vlm_ros.errors import UserError

_MARK = ".partial-"


@contextlib.contextmanager
def new_folder(out: Path, size: int) -> Iterator[Path]:
    """A folder to write into, which becomes `out` if nothing fails, and else is removed.

    Args:
        out: absent, or empty.
        size: bytes that will be written, about.

    Raises:
        UserError: there is something at `out`, it can't be written, or the disk is too full.
    """
    out = out.expanduser().absolute()
    check_place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        free = shutil.disk_usage(out.parent).free
        if size > free:
            raise UserError(
                f"The export needs {size / 1e9:.2f} GB, but the disk of {out.parent} has "
                f"{free / 1e9:.2f} GB left: free some, or take another --out."
            )
        partial = out.with_name(f".{out.name}{_MARK}{os.getpid()}")
        partial.mkdir()
    except OSError as error:
        raise UserError(
            f"{out} can't be written ({error.strerror}): take another --out."
        ) from error
    try:
        yield partial
        for path in partial.iterdir():
            _sync(path)
        _sync(partial)
        os.replace(partial, out)
        _sync(out.parent)
    except OSError as error:
        raise UserError(f"The export to {out} failed ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_place(out: Path) -> None:
    """Raise `UserError` if a folder can't be made at `out` because something is there."""
    out = out.expanduser()
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out} is no folder: take another --out.")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: take another --out, or remove it first.")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _remove_abandoned(out: Path) -> None:
    """What a killed export left beside its place: its process is gone."""
    for path in out.parent.glob(f".{out.name}{_MARK}*"):
        number = path.name.rpartition(_MARK)[2]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
