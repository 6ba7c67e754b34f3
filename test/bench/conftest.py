# SPDX-License-Identifier: Apache-2.0
import importlib.util
import sys
from pathlib import Path

import pytest

# The helper of test/cli: with `--import-mode=importlib` no folder of tests is on sys.path.
_spec = importlib.util.spec_from_file_location(
    "cli_conftest", Path(__file__).parents[1] / "cli" / "conftest.py"
)
assert _spec is not None
assert _spec.loader is not None
_cli = importlib.util.module_from_spec(_spec)
sys.modules["cli_conftest"] = _cli  # its dataclasses look themselves up
_spec.loader.exec_module(_cli)


@pytest.fixture(scope="session")
def svd_vlm():
    """The function that runs `svd-vlm` in a process of its own."""
    return _cli.run_svd_vlm
