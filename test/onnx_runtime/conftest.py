# SPDX-License-Identifier: Apache-2.0
"""Scout exported in float32, and an engine of each runtime over it."""

import pytest

pytest.importorskip("onnx", reason="needs the extra [export]")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")

from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.export import export_onnx


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Scout in float32. Not to be changed."""
    return export_onnx("scout", tmp_path_factory.mktemp("scout") / "onnx", precision="fp32")


@pytest.fixture(scope="session")
def onnx(exported):
    engine = SceneEngine.load(str(exported), device="cpu", cpu_threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def stock():
    """The same model in the runtime torch."""
    engine = SceneEngine.load("scout", precision="fp32", device="cpu")
    yield engine
    engine.close()
