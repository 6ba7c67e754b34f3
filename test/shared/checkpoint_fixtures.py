# SPDX-License-Identifier: Apache-2.0
"""The folders of `checkpoints`, made once. A room's conftest imports what its tests take."""

import pytest
from checkpoints import SHAPES, make_checkpoint


@pytest.fixture(scope="session", params=list(SHAPES))
def checkpoint(request, tmp_path_factory):
    """A checkpoint's folder, for each of the shapes. Not to be changed."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """The folder of the smaller checkpoint. Not to be changed."""
    return make_checkpoint(tmp_path_factory.mktemp("small"), list(SHAPES)[1], seed=1)
