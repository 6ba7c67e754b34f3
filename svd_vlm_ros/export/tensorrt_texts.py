# SPDX-License-Identifier: Apache-2.0
"""The texts that `tensorrt.py` writes: the script and its README, from `templates/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from svd_vlm_ros.export.tensorrt_shapes import Profile
from svd_vlm_ros.onnx_runtime.manifest import DECODER, EMBEDDINGS, Manifest
from svd_vlm_ros.planning.devices import DEVICES

_TYPED = "TensorRT computes in what the graph says."
_WEAK = (
    "The graph computes in float32; `--fp16` lets TensorRT take float16 where that is faster "
    "(deprecated since 10.12). Better: export with fp16, or int4 and `--activations float16`."
)
_WIDE = (
    "The graph computes in float32 and TensorRT 11 does what it says: export with fp16, or int4 "
    "and `--activations float16`, for speed."
)


SCRIPT, README = "build.sh", "README.md"
_TEMPLATES = Path(__file__).parent / "templates"


def _filled(template: str, **values: object) -> str:
    """A template with each @NAME@ replaced."""
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", str(value))
    return text


def script(
    manifest: Manifest,
    found: Mapping[str, Sequence[Profile]],
    options: Sequence[str],
    version: int,
    workspace: int,
) -> str:
    """The bash script."""
    sizes = manifest.sizes
    builds = []
    for name, profiles in found.items():
        lines = [f"build {name.removesuffix('.onnx')}"]
        fixed = len(profiles) == 1 and profiles[0].least == profiles[0].most
        for index, profile in enumerate(() if fixed else profiles):
            if len(profiles) > 1:
                lines.append(f"--profile={index}")
            kinds = ("min", profile.least), ("opt", profile.usual), ("max", profile.most)
            lines += [f'"--{kind}Shapes={_shapes(shapes)}"' for kind, shapes in kinds]
        builds.append(" \\\n  ".join(lines))
    return _filled(
        SCRIPT,
        model=" ".join(manifest.model.split()),  # in a comment: it must not end the line
        precision=manifest.precision,
        activations=manifest.activations,
        version=version,
        workspace=workspace,
        layers=sizes["layers"],
        kv_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        options="".join(f" {option}" for option in options),
        builds="\n".join(builds),
    )


def readme(manifest: Manifest, context: int, version: int) -> str:
    """The README beside the script."""
    sizes = manifest.sizes
    weights = sum(
        int(entry["bytes"]) for name, entry in manifest.files.items() if name.startswith(DECODER)
    )
    number = 2 if manifest.activations == "float16" else 4
    cache = 2 * sizes["layers"] * sizes["kv_heads"] * sizes["head_dim"] * context * number
    numbers = _TYPED
    if manifest.activations != "float16":
        numbers = _WEAK if version == 10 else _WIDE
    modules = []
    for device in DEVICES.values():
        if device.key.endswith("-super"):
            continue
        free = device.capacity_bytes - device.reserve_gb * 1e9
        verdict = "fit" if weights + cache < free else "do not fit"
        modules.append(f"| {device.name} | {free / 1e9:.1f} GB | {verdict} |")
    return _filled(
        README,
        model=" ".join(manifest.model.split()),  # in a comment: it must not end the line
        version=version,
        precision=manifest.precision,
        activations=manifest.activations,
        numbers=numbers,
        side=sizes["image_size"],
        width=sizes["vision_width"],
        patches=sizes["patches"][0] * sizes["patches"][1],
        usual=manifest.defaults["visual_tokens"],
        hidden=sizes["hidden"],
        layers=sizes["layers"],
        context=context,
        embeddings=EMBEDDINGS,
        weights=weights / 1e9,
        cache=cache / 1e9,
        version_note=(
            "TensorRT 11 is not for Jetsons by its guides of 11.3 and 11.4."
            if version == 11
            else "JetPack 6.1 and 6.2 have TensorRT 10.3."
        ),
        modules="\n".join(modules),
    )


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Shapes as `trtexec` reads them; the cache by the script's own function."""
    named = {name: shape for name, shape in shapes.items() if not name.startswith("past_")}
    text = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in named.items())
    past = [shape for name, shape in shapes.items() if name.startswith("past_")]
    return text + (f"$(past {past[0][2]})" if past else "")
