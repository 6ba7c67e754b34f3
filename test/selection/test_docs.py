# SPDX-License-Identifier: Apache-2.0
"""The worked example of docs/selectors.md does what the page says."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection import Budget, VisualFeatures

PAGE = Path(__file__).parents[2] / "docs" / "selectors.md"


@pytest.fixture
def contrast(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "contrast.py").write_text(next(b for b in blocks if "class Contrast" in b))
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module("contrast").Contrast


def test_the_example_keeps_what_differs(contrast):
    patches = torch.zeros(12, 4)
    patches[[3, 7, 8]] = torch.tensor([[9.0], [5.0], [7.0]])
    valid = torch.ones(12, dtype=torch.bool)
    valid[8] = False
    chosen = contrast()(VisualFeatures(patches, (3, 4), valid), Budget(2))
    assert chosen.indices.tolist() == [3, 7]
    assert contrast.name == "contrast"
    with pytest.raises(UserError, match="power"):
        contrast(power=0)
