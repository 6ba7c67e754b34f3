# SPDX-License-Identifier: Apache-2.0
"""What runs on a robot with the runtime onnx alone can be imported without torch."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "bitsandbytes", "safetensors", "accelerate", "huggingface_hub")

BLOCK = f"""
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is absent", name=name)

sys.meta_path.insert(0, Absent())
"""

MODULES = (
    "svd_vlm_ros.bags.annotate",
    "svd_vlm_ros.cli.ask",
    "svd_vlm_ros.cli.main",
    "svd_vlm_ros.cli.report",
    "svd_vlm_ros.engine",
    "svd_vlm_ros.models.interface",
    "svd_vlm_ros.models.llava.preprocess",
    "svd_vlm_ros.models.prompt",
    "svd_vlm_ros.models.runtime",
    "svd_vlm_ros.node.perception",
    "svd_vlm_ros.node.perception_node",
    "svd_vlm_ros.overlay",
    "svd_vlm_ros.selection",
    "svd_vlm_ros.selection.greedy",
)


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code], check=False, capture_output=True, text=True, cwd="/"
    )


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_imported_without_torch(module):
    done = run(f"importlib.import_module({module!r})")
    assert done.returncode == 0, done.stderr


def test_torch_is_blocked_there():
    done = run("import torch")
    assert "torch is absent" in done.stderr


def test_without_torch_a_model_of_torch_is_refused_in_a_sentence():
    code = """
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
try:
    SceneEngine.load("scout")
except UserError as error:
    print(error)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "The runtime torch needs torch and transformers" in done.stdout
    assert "svd-vlm export onnx" in done.stdout
