# SPDX-License-Identifier: Apache-2.0
"""Exports that several modules share, made once."""

import pytest
from checkpoint_fixtures import checkpoint, small_checkpoint

pytest.importorskip("onnx", reason="needs the extra [export]")
pytest.importorskip("onnxruntime", reason="needs the extra [export]")

from svd_vlm_ros.export import export_onnx

__all__ = ["checkpoint", "small_checkpoint"]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Makes an export, or gives the one that was made. Not to be changed."""
    made = {}

    def export(model, precision="fp32"):
        key = str(model), precision
        if key not in made:
            out = tmp_path_factory.mktemp("export") / "model"
            made[key] = export_onnx(str(model), out, precision=precision)
        return made[key]

    return export
