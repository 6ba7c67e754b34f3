# SPDX-License-Identifier: Apache-2.0
"""A virtual environment of its own that holds what some distributions need, and nothing else.

It is filled with the files that pip installed into this environment, as each distribution's RECORD
names them, so that no network is needed and the versions are those that the tests run with.
"""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(root, extras, without):
    """The distributions that `root[extras]` needs, without some and what only those need."""
    found, left = {}, [(root, frozenset(extras))]
    while left:
        name, wanted = left.pop()
        name = canonicalize_name(name)
        if name in without or (name in found and wanted <= found[name]):
            continue
        found[name] = found.get(name, frozenset()) | wanted
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            markers = [{"extra": extra} for extra in (*found[name], "")]
            if needed.marker is None or any(map(needed.marker.evaluate, markers)):
                left.append((needed.name, frozenset(needed.extras)))
    return sorted(found)


def make_environment(folder, distributions):
    """Make a virtual environment with these distributions; returns its Python.

    Raises:
        FileNotFoundError: a distribution has no RECORD (the system's package manager installed it).
    """
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60
    )
    here, there = Path(sys.prefix).resolve(), Path(folder).resolve()
    for name in distributions:
        files = metadata.files(name)
        if not files:
            raise FileNotFoundError(f"{name} has no RECORD")
        for file in files:
            source = Path(os.path.normpath(file.locate()))
            if source.suffix == ".pyc" or not source.is_file():
                continue
            target = there / source.relative_to(here)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                continue
            try:
                os.link(source, target)
            except OSError:  # another file system
                shutil.copy2(source, target)
    return there / "bin" / "python"


def size(folder):
    """Bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in Path(folder).rglob("*") if path.is_file())
