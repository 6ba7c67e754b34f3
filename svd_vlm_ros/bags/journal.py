# SPDX-License-Identifier: Apache-2.0
"""What was found so far, a line of JSON a picture, so that work of hours is never done twice.

The first line says what the work is: bag, model, questions. A journal of other work is refused. A
last line that was cut off, by a full disk or a killed process, is dropped when the journal is
opened again.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from svd_vlm_ros.errors import UserError

SYNC_SECONDS = 2.0  # work that a power failure may cost


class Journal:
    """Findings by the number of their picture; `with Journal(...) as journal`.

    Raises `UserError` where the file belongs to other work or can't be written.
    """

    def __init__(self, path: Path, work: dict[str, Any]) -> None:
        self.path = path
        self.found: dict[int, dict[str, Any]] = {}
        self._work = json.loads(json.dumps(work))  # as it will be read back
        self._synced = time.monotonic()
        try:
            length = self._read()
            self._file = open(path, "ab")  # noqa: SIM115 (closed by __exit__)
            self._file.truncate(length)
            if not length:
                self._line({"work": self._work})
        except OSError as error:  # nothing was found yet
            raise UserError(
                f"Can't write {path} ({error.strerror or error}): make room or choose another "
                "place."
            ) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def add(self, number: int, finding: dict[str, Any]) -> None:
        """Keep what was found in a picture."""
        try:
            self._line({"picture": number, **finding})
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.found[number] = finding

    def delete(self) -> None:
        """The work is over."""
        self._file.close()
        self.path.unlink()

    def _line(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _read(self) -> int:
        """Read a journal that is there already; the bytes of its whole lines."""
        if not self.path.exists():
            return 0
        whole = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                record = None
            if record is None:
                break
            if not whole:
                self._check(record)
            else:
                self.found[record.pop("picture")] = record
            whole += len(line)
        return whole

    def _check(self, record: dict[str, Any]) -> None:
        begun = record.get("work", {})
        if begun != self._work:
            other = [name for name in self._work if begun.get(name) != self._work[name]]
            raise UserError(
                f"{self.path} is of work that was begun otherwise ({', '.join(other) or 'another'} "
                "differs): give the same options to go on with it, or delete it to begin anew."
            )


def cannot_write(path: Path, error: OSError) -> UserError:
    """The one sentence for a disk that is full or broken, and for a folder without rights."""
    return UserError(
        f"Can't write {path} ({error.strerror or error}): make room or choose another place; what "
        "was found so far is kept, and the same command goes on from there."
    )
