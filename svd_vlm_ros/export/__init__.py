# SPDX-License-Identifier: Apache-2.0
"""Off PyTorch: models as ONNX graphs, and the way from there to TensorRT.

    from svd_vlm_ros.export import export_onnx
    export_onnx("scout", Path("scout-onnx"), precision="int4")

It needs the extra `[export]`. What runs the folder is the room `onnx_runtime`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from svd_vlm_ros.errors import UserError

__all__ = ["export_onnx"]

NEEDS = ("onnx", "ml_dtypes")


def export_onnx(
    model: str,
    out: Path,
    *,
    precision: str = "fp32",
    activations: str = "auto",
    on_progress: Callable[[str, int, int], object] | None = None,
) -> Path:
    """See `onnx_export.export_onnx`. Raises `UserError` also if the extra is not installed."""
    check_installed(*NEEDS)
    from svd_vlm_ros.export.onnx_export import export_onnx as export

    return export(model, out, precision=precision, activations=activations, on_progress=on_progress)


def check_installed(*libraries: str) -> None:
    """Raise `UserError` if one of some libraries of the extra `[export]` is absent."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise UserError(
                f"An export needs {library}, which is not installed: "
                "python3 -m pip install 'svd_vlm_ros[export]'"
            )
