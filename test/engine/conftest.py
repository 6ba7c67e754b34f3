# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import pytest

# The helper of test/llava: with `--import-mode=importlib` no folder of tests is on sys.path.
_spec = importlib.util.spec_from_file_location(
    "checkpoints", Path(__file__).parents[1] / "llava" / "checkpoints.py"
)
assert _spec is not None
assert _spec.loader is not None
_checkpoints = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_checkpoints)


@pytest.fixture(scope="session")
def checkpoints():
    """The module that makes checkpoints."""
    return _checkpoints


@pytest.fixture(scope="session", params=list(_checkpoints.SHAPES))
def checkpoint(request, tmp_path_factory):
    """A checkpoint's folder, for each of the shapes. Not to be changed."""
    return _checkpoints.make_checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """The folder of the smaller checkpoint. Not to be changed."""
    shape = list(_checkpoints.SHAPES)[1]
    return _checkpoints.make_checkpoint(tmp_path_factory.mktemp("small"), shape, seed=1)
