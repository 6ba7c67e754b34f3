# SPDX-License-Identifier: Apache-2.0
"""From an exported folder to the files with which TensorRT engines are built on a module.

    script = write_tensorrt(folder, context=1024, version=10)     # <folder>/tensorrt/build.sh

Engines fit one GPU and one version of TensorRT, so nothing is built here: a script of `trtexec`
lines is written, with a README and the same shapes for onnxruntime's TensorRT provider. None of it
has run on a Jetson yet; what is open stands in the README.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.tensorrt_shapes import Profile, profiles, spec
from svd_vlm_ros.export.tensorrt_texts import README, SCRIPT, readme, script
from svd_vlm_ros.onnx_runtime.manifest import Manifest

FOLDER = "tensorrt"
PROVIDER = "provider_options.json"
TRTEXEC = Path("/usr/src/tensorrt/bin/trtexec")  # of JetPack and NVIDIA's packages


def write_tensorrt(
    folder: Path, *, context: int = 1024, version: int = 10, workspace: int = 2048
) -> Path:
    """Write the script, its README, and options for onnxruntime's TensorRT provider.

    Args:
        folder: that `export_onnx` wrote; files are added in its `tensorrt/`.
        context: the most tokens that the cache holds.
        version: of TensorRT: 10 or 11.
        workspace: memory for building, in MiB.

    Returns:
        The script.

    Raises:
        UserError: the export is damaged, or its precision is not for this TensorRT.
    """
    manifest = Manifest.read(folder, checksums=False)
    check_fits(manifest, context, version)
    found = profiles(manifest, context)
    place = folder / FOLDER
    try:
        place.mkdir(exist_ok=True)
        path = place / SCRIPT
        path.write_text(script(manifest, found, options(manifest, version), version, workspace))
        path.chmod(0o755)
        (place / README).write_text(readme(manifest, context, version))
        content = {
            name: provider_options(manifest, each, workspace) for name, each in found.items()
        }
        (place / PROVIDER).write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{place} can't be written ({error.strerror}).") from error
    return path


def check_fits(manifest: Manifest, context: int, version: int) -> None:
    """Raise `UserError` unless TensorRT reads an export of this precision."""
    if version not in (10, 11):
        raise UserError(f"There is no script for TensorRT {version}: take 10 or 11.")
    if manifest.precision == "int8" and version == 10:
        raise UserError(
            "TensorRT 10 as JetPack 6 has it reads blocks of 4 bits, not of 8: export in fp16 or "
            "int4."
        )
    most = int(manifest.sizes["context"])
    if not 16 <= context <= most:
        raise UserError(f"The model was made for contexts of 16 to {most} tokens, not {context}.")


def options(manifest: Manifest, version: int) -> tuple[str, ...]:
    """The options of `trtexec` that say which numbers are computed with.

    A graph in float16 is built as it is. One in float32 lets TensorRT 10 take float16 where it is
    faster; TensorRT 11 has no such option, it computes what the graph says.
    """
    if version >= 11:
        return ()
    if manifest.activations == "float16":
        return ("--stronglyTyped",)
    return ("--fp16", "--int4") if manifest.precision == "int4" else ("--fp16",)


def provider_options(
    manifest: Manifest, found: tuple[Profile, ...], workspace: int
) -> dict[str, str]:
    """Options of onnxruntime's TensorRT provider for a graph, by its first profile."""
    widest = found[0]
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": FOLDER,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": FOLDER,
        "trt_fp16_enable": str(manifest.precision != "fp32"),
        "trt_max_workspace_size": str(workspace << 20),
        "trt_profile_min_shapes": spec(widest.least),
        "trt_profile_opt_shapes": spec(widest.usual),
        "trt_profile_max_shapes": spec(widest.most),
    }


def build(script: Path) -> None:
    """Run the script. Raises `UserError` if there is no `trtexec`, or if it fails."""
    if not shutil.which("trtexec") and not TRTEXEC.is_file():
        raise UserError(
            f"trtexec is not on this machine (nor at {TRTEXEC}): copy the folder to the module and "
            f"run {script.name} there."
        )
    if subprocess.run(["bash", str(script)], check=False).returncode:
        raise UserError(f"{script} failed: what trtexec says is above.")
