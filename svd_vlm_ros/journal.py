# SPDX-License-Identifier: Apache-2.0
"""Work of hours that a kill at any byte doesn't undo: a file of JSON lines, only ever appended to.

    with Journal(path, settings) as journal:
        done = {record["id"] for _, record in read_records(path) if record and "id" in record}
        journal.write([{"id": 7, "answer": "yes"}])

The first line records the settings that the work was begun with, every other line one result. A
line counts once its newline is there: what a killed run left behind the last newline is not read,
and cut off when the file is opened again. A broken line in the middle costs that line alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import reprlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from svd_vlm_ros.errors import UserError

SYNC_SECONDS = 2.0  # work that a power failure may cost


class Journal:
    """Appends records to a file. One writer a file: a second one is refused.

    A file that belongs to other work is refused before a byte of it is changed.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open the file, check or write its settings, and cut off an unfinished last line.

        Args:
            path: of the file; its folder is made if it is not there.
            settings: what must agree on resumption, as values of JSON.

        Raises:
            UserError: another run writes to the file, its settings differ, or it can't be written.
        """
        self._path = path
        self._synced = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
            try:
                self._begin(json.loads(json.dumps(settings)))  # as they will be read back
            except BaseException:
                with contextlib.suppress(OSError):  # the disk is full: closing fails as writing did
                    self._file.close()
                raise
        except OSError as error:
            raise cannot_write(path, error, kept=False) from error

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records. They are with the operating system when this returns.

        Raises:
            UserError: the disk is full or broken.
        """
        try:
            self._append(records)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def delete(self) -> None:
        """Remove the file: the work is over. It stays locked until it is closed."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and let others write to it."""
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, settings: dict[str, Any]) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another run is writing to {self._path}: wait for it or stop it."
            ) from None
        self._file.seek(0)
        whole = sum(len(line) for line in self._file if line.endswith(b"\n"))
        if whole:
            first = next((record for _, record in read_records(self._path) if record), {})
            begun = first.get("settings", first.get("work"))  # "work": older annotations of bags
            if not isinstance(begun, dict):
                raise UserError(
                    f"{self._path} does not begin with the settings of a run: name another --out, "
                    "or delete it."
                )
            if begun != settings:
                raise UserError(
                    f"{self._path} was begun with other settings ({differences(begun, settings)}): "
                    "name another --out, or give the same options to go on with it."
                )
        self._file.truncate(whole)
        if not whole:
            self._append([{"record": "settings", "settings": settings}])

    def _append(self, records: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        self._file.write(text.encode())
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The lines of a journal with their numbers, from 1; None: a broken line.

    An unfinished last line is not there yet, whoever is writing it.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) else None


def differences(begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first settings that differ, for a sentence: "seed: 0, not 1"."""
    names = [
        name
        for name in {**begun, **wanted}
        if (name in begun, begun.get(name)) != (name in wanted, wanted.get(name))
    ]
    return "; ".join(
        f"{name}: {reprlib.repr(begun.get(name))}, not {reprlib.repr(wanted.get(name))}"
        for name in names[:3]
    )


def cannot_write(path: Path, error: OSError, *, kept: bool = True) -> UserError:
    """The one sentence for a disk that is full or broken, and for a folder without rights.

    Args:
        path: what could not be written.
        error: why.
        kept: whether results may be on file that a second run would use.
    """
    rest = "; what was found so far is kept, and the same command goes on from there"
    return UserError(
        f"Can't write {path} ({error.strerror or error}): make room or choose another place"
        f"{rest if kept else ''}."
    )
