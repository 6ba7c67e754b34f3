# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm doctor`: is all here that a robot's answers need, and what to do if it is not."""

# No `from __future__ import annotations`: typer 0.9 (Ubuntu 24.04) would not see the options.

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from svd_vlm_ros.cli import checks, options
from svd_vlm_ros.cli.checks import Check, Status
from svd_vlm_ros.cli.console import print_json, spinner, stdout
from svd_vlm_ros.cli.probing import Outcome, run_probe
from svd_vlm_ros.errors import UserError

TEGRA_RELEASE = Path("/etc/nv_tegra_release")
DEVICE_TREE_MODEL = Path("/proc/device-tree/model")
PLANNED_MODEL = "llava-1.5-7b"
COLOURS = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red"}


def doctor(
    model: Annotated[
        options.MaybeText, typer.Option("--model", help="A model that has to be on this machine.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="How long to listen for cameras.")
    ] = 2.0,
    as_json: options.AsJson = False,
) -> None:
    """Check Python, ROS, images, torch, quantization, models and cameras, and say what to do.

    Exit status 1 if a check failed; warnings leave it at 0.

    Example:  svd-vlm doctor --model llava-hf/llava-1.5-7b-hf
    """
    with spinner("Examining this machine"):
        found = list(examine(model, seconds))
    if as_json:
        print_json({"checks": [asdict(check) for check in found]})
    else:
        print_table(found)
    if any(check.status is Status.FAILED for check in found):
        raise typer.Exit(1)


def examine(model: str | None, seconds: float) -> Iterator[Check]:
    """All checks in the order of the table. The probes run two at a time: they mostly import."""
    jetson = checks.read_jetson(_read(TEGRA_RELEASE), _read(DEVICE_TREE_MODEL))
    with ThreadPoolExecutor(max_workers=2) as pool:
        ros = pool.submit(run_probe, "ros")
        torch = pool.submit(run_probe, "torch")
        images = pool.submit(run_probe, "numpy_opencv")
        bridge = pool.submit(run_probe, "cv_bridge")

        yield checks.check_python(sys.version_info[:3], sys.executable)
        yield checks.check_ros(
            ros.result(), os.environ, _version("ros-rclpy"), _distributions(Path("/opt/ros"))
        )
        has_ros = not ros.result().error
        if has_ros:
            interfaces = pool.submit(run_probe, "interfaces")
            listening = pool.submit(run_probe, "cameras", str(seconds), limit=seconds + 60)
            yield checks.check_interfaces(interfaces.result())
        yield checks.check_numpy_opencv(images.result())
        if has_ros:
            numpy = images.result().found.get("numpy", "?")
            yield checks.check_cv_bridge(bridge.result(), numpy)

        onnxruntime = _version("onnxruntime") or _version("onnxruntime-gpu")
        alone = onnxruntime is not None and _version("torch") is None
        if onnxruntime is not None:
            yield checks.check_onnxruntime(onnxruntime, alone)
        if not alone:
            nvidia = shutil.which("nvidia-smi") is not None
            yield checks.check_torch(torch.result(), jetson, nvidia)
            yield checks.check_transformers(_version("transformers"))
        if not torch.result().error:
            yield from _check_products(pool, torch.result(), jetson)
            if not torch.result().found["devices"]:
                # Alone: what runs beside it would be measured with it.
                yield checks.check_precision(run_probe("precision", PLANNED_MODEL))
        yield from _check_models(model)
        if has_ros:
            domain = os.environ.get("ROS_DOMAIN_ID") or "0"
            yield from checks.check_cameras(listening.result(), domain, seconds)


def _check_products(
    pool: ThreadPoolExecutor, torch: Outcome, jetson: str | None
) -> Iterator[Check]:
    """int8 and int4 on every kind of device here."""
    version = _version("bitsandbytes")
    devices = ["cuda", "cpu"] if torch.found["devices"] else ["cpu"]
    capability = torch.found["devices"][0]["capability"] if torch.found["devices"] else None
    wanted = [(kind, device) for device in devices for kind in ("int8", "int4")]
    if version is None:
        outcomes = [Outcome() for _ in wanted]
    else:
        outcomes = list(pool.map(lambda pair: run_probe("product", *pair), wanted))
    for (kind, device), outcome in zip(wanted, outcomes, strict=True):
        yield checks.check_product(kind, device, version, outcome, jetson, capability)


def _check_models(wanted: str | None) -> Iterator[Check]:
    """scout, the launch file's default, and the model that was asked for."""
    from svd_vlm_ros.engine.runtimes import find_model

    names = dict.fromkeys(("scout", options.DEFAULT_HUB_MODEL, wanted or "scout"))
    for name in names:
        try:
            found: Path | UserError = find_model(name)
        except UserError as error:
            found = error
        yield checks.check_model(name, found, wanted=name in ("scout", wanted))


def print_table(found: list[Check]) -> None:
    """Print the checks as a table, and a last line with the sum."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("what was found, and what to do")
    for check in found:
        status = Text(check.status.value, style=COLOURS[check.status])
        findings: list[RenderableType] = [Text(check.detail, overflow="fold")]
        if check.remedy:
            findings.append(Padding(Text(f"do: {check.remedy}", style="bold"), (0, 0, 0, 2)))
        table.add_row(status, Text(check.name), Group(*findings))
    console = stdout()
    console.print(table)
    counts = Counter(check.status for check in found)
    console.print(", ".join(f"{counts[status]} {status.value}" for status in Status))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _distributions(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/setup.bash"))
