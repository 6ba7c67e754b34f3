# SPDX-License-Identifier: Apache-2.0
"""cv_bridge, if it is there, gives the same images; if it cannot work, it is left alone."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from svd_vlm_ros.images.messages import ENCODINGS
from svd_vlm_ros.node.cameras import conversion as images
from svd_vlm_ros.node.cameras.conversion import to_rgb

HEIGHT, WIDTH = 6, 10
RNG = np.random.default_rng(7)


def message(encoding: str, padding: int = 0) -> SimpleNamespace:
    """A message of noise, its rows with `padding` bytes of rubbish behind them."""
    known = ENCODINGS[encoding]
    row = WIDTH * known.channels * known.itemsize
    rows = int(HEIGHT * (1 + ENCODINGS[encoding].chroma))
    return SimpleNamespace(
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        is_bigendian=0,
        step=row + padding,
        data=RNG.integers(0, 256, rows * (row + padding), np.uint8).tobytes(),
    )


@pytest.mark.skipif(
    importlib.util.find_spec("cv_bridge") is None, reason="cv_bridge is not installed"
)
@pytest.mark.parametrize("encoding", list(ENCODINGS))
def test_cv_bridge_gives_the_same(encoding: str) -> None:
    assert images.cv_bridge_converter() is not None, "cv_bridge cannot work beside this NumPy"
    for padding in (0, 1):
        it = message(encoding, padding)
        np.testing.assert_array_equal(
            to_rgb(it, use_cv_bridge=True), to_rgb(it, use_cv_bridge=False)
        )


def test_a_cv_bridge_that_aborts_is_not_used(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was compiled for NumPy 1 does beside NumPy 2."""
    (tmp_path / "cv_bridge.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    images.cv_bridge_converter.cache_clear()
    try:
        assert images.cv_bridge_converter() is None
        assert to_rgb(message("bgr8")).shape == (HEIGHT, WIDTH, 3)
    finally:
        images.cv_bridge_converter.cache_clear()
