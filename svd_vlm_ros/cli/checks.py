# SPDX-License-Identifier: Apache-2.0
"""The checks of `svd-vlm doctor`: from what was found to ok, warning or failed, with a remedy.

Pure functions: what they judge was found by `probes.py`, each probe in a process of its own, and is
passed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from svd_vlm_ros.cli.console import gigabytes
from svd_vlm_ros.cli.probing import Outcome
from svd_vlm_ros.errors import UserError

WHEELS = {"7": "jazzy", "9": "kilted"}  # major version of rclpy's wheel: distribution
TORCH_HELP = "see docs/models.md for the torch of this machine"
BUILD_HERE = (
    "build bitsandbytes on this machine: cmake -DCOMPUTE_BACKEND=cuda "
    "-DCOMPUTE_CAPABILITY={capability} -S . && make && python3 -m pip install . (docs/models.md)"
)
BUILT_FOR_NUMPY_1 = ("numpy.core.multiarray", "_ARRAY_API")
BUILD_SIGNS = ("named symbol not found", "no kernel image", "invalid device function")
WEIGHTS = (".safetensors", ".onnx", ".data", ".npy")  # of a checkpoint, and of an export
PRODUCT_TOLERANCE = {"int8": 0.05, "int4": 0.2}  # relative; 0.010 and 0.092 if all is well


class Status(str, Enum):
    """How a check ended. Only `failed` makes the doctor's exit status 1."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One row of the doctor's table: what was looked at, how it is, and what to do about it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def check_python(version: Sequence[int], executable: str) -> Check:
    """Python 3.10 or newer."""
    number = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < (3, 10):
        return Check("Python", Status.FAILED, number, "use Python 3.10 or newer")
    return Check("Python", Status.OK, f"{number} ({executable})")


def check_ros(
    outcome: Outcome,
    variables: Mapping[str, str],
    wheels: str | None = None,
    installed: Sequence[str] = (),
) -> Check:
    """The ROS distribution and its middleware.

    Args:
        outcome: of the probe `ros`.
        variables: the environment.
        wheels: version of the rclpy wheel from PyPI, if that is what is installed.
        installed: distributions under /opt/ros, sourced or not.
    """
    distribution = variables.get("ROS_DISTRO") or "unknown distribution"
    if wheels:
        name = WHEELS.get(wheels.split(".")[0], "unknown distribution")
        distribution = f"{name} (rclpy {wheels} from PyPI)"
    domain = variables.get("ROS_DOMAIN_ID") or "0"
    if not outcome.error:
        detail = f"{distribution}, {outcome.found['rmw']}, domain {domain}"
        reach = variables.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper()
        if reach == "OFF":
            return Check(
                "ROS 2",
                Status.WARNING,
                f"{detail}; ROS_AUTOMATIC_DISCOVERY_RANGE=OFF hides all other nodes",
                "unset ROS_AUTOMATIC_DISCOVERY_RANGE unless you mean it",
            )
        return Check("ROS 2", Status.OK, detail)
    if "No module named 'rclpy'" in outcome.error:
        remedy = "pip install this package (it brings rclpy), or install ROS 2 for your system"
        if installed:
            remedy = f"source /opt/ros/{installed[-1]}/setup.bash, then try again"
        return Check(
            "ROS 2",
            Status.WARNING,
            "not here: only what needs no ROS works (ask, describe)",
            remedy,
        )
    return Check(
        "ROS 2",
        Status.FAILED,
        f"rclpy can't be imported: {outcome.error}",
        "use the Python that this ROS was built for, and its setup.bash; in a virtual environment "
        "made with --system-site-packages",
    )


def check_interfaces(outcome: Outcome) -> Check:
    """The service, the action and the messages of this package, compiled."""
    if not outcome.error:
        return Check("interfaces", Status.OK, ", ".join(outcome.found["interfaces"]))
    return Check(
        "interfaces",
        Status.FAILED,
        f"svd_vlm_ros/srv/AskScene can't be loaded: {outcome.error}",
        "colcon build, then source install/setup.bash; or pip install ., and run it from another "
        "folder than the checkout, whose svd_vlm_ros has no compiled interfaces",
    )


def check_numpy_opencv(outcome: Outcome) -> Check:
    """NumPy and OpenCV with one JPEG written and read."""
    if outcome.error:
        remedy = "apt install python3-opencv, or python3 -m pip install opencv-python-headless"
        if any(sign in outcome.error for sign in BUILT_FOR_NUMPY_1):
            remedy = (
                "python3 -m pip install 'numpy<2' (apt's OpenCV was built for NumPy 1), or "
                "opencv-python-headless"
            )
        return Check("NumPy, OpenCV", Status.FAILED, outcome.error, remedy)
    detail = f"NumPy {outcome.found['numpy']}, OpenCV {outcome.found['opencv']}"
    if not outcome.found["jpeg"]:
        return Check(
            "NumPy, OpenCV",
            Status.FAILED,
            f"{detail}: a JPEG does not survive writing and reading",
            "reinstall OpenCV: two packages of it may be mixed",
        )
    return Check("NumPy, OpenCV", Status.OK, detail)


def check_cv_bridge(outcome: Outcome, numpy: str) -> Check:
    """cv_bridge, which is optional: the node converts images itself if cv_bridge is unsafe."""
    if not outcome.error and outcome.found["same"]:
        return Check("cv_bridge", Status.OK, f"works beside NumPy {numpy}")
    if "No module named 'cv_bridge'" in outcome.error:
        return Check("cv_bridge", Status.OK, "not here: the node converts images itself")
    trouble = outcome.error or "changes an image on its way"
    return Check(
        "cv_bridge",
        Status.WARNING,
        f"fails beside NumPy {numpy}; the node converts images itself ({trouble})",
        "to use it: python3 -m pip install 'numpy<2' (apt's cv_bridge was built for NumPy 1)",
    )


def read_jetson(release: str | None, model: str | None) -> str | None:
    """The Jetson and its L4T version, from /etc/nv_tegra_release and the device tree; else None."""
    if release is None:
        return None
    found = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", release)
    version = f"L4T R{found[1]}.{found[2]}" if found else "L4T of unknown version"
    board = (model or "").strip("\0 \n").removeprefix("NVIDIA ") or "a Jetson"
    return f"{board}, {version}"


def check_torch(outcome: Outcome, jetson: str | None, nvidia: bool) -> Check:
    """torch and its device. `nvidia`: whether this machine has an NVIDIA GPU with a driver."""
    if outcome.error:
        return Check("torch", Status.FAILED, outcome.error, f"install torch: {TORCH_HELP}")
    found = outcome.found
    devices = [
        f"{device['name']} (capability {device['capability']}, {gigabytes(device['memory'])})"
        for device in found["devices"]
    ]
    machine = f" on {jetson}" if jetson else ""
    detail = f"{found['torch']}{machine}"
    if devices:
        return Check("torch", Status.OK, f"{detail}: {', '.join(devices)}")
    if jetson:
        return Check(
            "torch",
            Status.FAILED,
            f"{detail} does not see the GPU",
            "this torch is not made for this Jetson: install NVIDIA's own (docs/models.md)",
        )
    detail = f"{detail}: CPU with {found['threads']} threads"
    if nvidia:
        return Check(
            "torch",
            Status.WARNING,
            f"{detail}, though this machine has an NVIDIA GPU",
            f"this torch was built without CUDA, or the driver is too old: {TORCH_HELP}",
        )
    return Check("torch", Status.OK, f"{detail}, no GPU: a 7B model takes seconds an answer")


def check_onnxruntime(version: str, alone: bool) -> Check:
    """onnxruntime, if it is installed. `alone`: without torch, so that exported models run only."""
    detail = f"onnxruntime {version}"
    if alone:
        detail += ", without torch: models run that 'svd-vlm export onnx' has written"
    return Check("runtime onnx", Status.OK, detail)


def check_transformers(version: str | None) -> Check:
    """transformers."""
    if version is None:
        return Check(
            "transformers",
            Status.FAILED,
            "not installed",
            "python3 -m pip install 'transformers>=5.18'",
        )
    return Check("transformers", Status.OK, version)


def check_product(
    kind: str,
    device: str,
    version: str | None,
    outcome: Outcome,
    jetson: str | None = None,
    capability: str | None = None,
) -> Check:
    """One real product with weights of `kind` (int8 or int4) through bitsandbytes on `device`.

    bitsandbytes imports everywhere; only a product shows whether it was built for this GPU.
    """
    name = f"{kind} on {device}"
    if version is None:
        return Check(
            name,
            Status.WARNING,
            "bitsandbytes is not installed: only fp32, fp16 and bf16 work",
            "python3 -m pip install bitsandbytes (on a Jetson build it: docs/models.md)",
        )
    if not outcome.error:
        error = outcome.found["error_of_product"]
        if error <= PRODUCT_TOLERANCE[kind]:
            return Check(
                name, Status.OK, f"bitsandbytes {version}, a product within {error:.1%} of float32"
            )
        return Check(
            name,
            Status.FAILED,
            f"bitsandbytes {version} computes a wrong product ({error:.0%} away from float32)",
            f"reinstall bitsandbytes, or use another precision than {kind}",
        )
    detail = f"bitsandbytes {version}: {outcome.error}"
    if device != "cpu" and (jetson or any(sign in outcome.error for sign in BUILD_SIGNS)):
        digits = (capability or "8.7").replace(".", "")
        cause = (
            "PyPI's aarch64 build is for servers, not for a Jetson's L4T"
            if jetson
            else "this build has no code for this GPU"
        )
        return Check(
            name, Status.FAILED, f"{detail}; {cause}", BUILD_HERE.format(capability=digits)
        )
    return Check(
        name,
        Status.FAILED,
        detail,
        f"reinstall bitsandbytes, or use another precision than {kind} (precision:=bf16)",
    )


def check_precision(outcome: Outcome) -> Check:
    """What `precision: auto` takes for LLaVA-1.5-7B on this CPU, and about how fast that is."""
    name = "precision auto"
    if outcome.error:
        return Check(
            name,
            Status.WARNING,
            f"the precisions can't be compared: {outcome.error}",
            "choose one yourself: precision:=int8",
        )
    found = outcome.found
    chosen = next(c for c in found["candidates"] if c["precision"] == found["precision"])
    detail = (
        f"this CPU: {found['class']}, {found['threads']} threads; {found['model']} in "
        f"{chosen['precision']} with {chosen['activations']} activations; about "
        f"{chosen['first_token']:.1f} s to a first token with 16 visual tokens, "
        f"{gigabytes(chosen['bytes'])} of memory"
    )
    if found["advice"]:
        return Check(name, Status.WARNING, detail, found["advice"])
    return Check(name, Status.OK, detail)


def check_model(name: str, found: Path | UserError, wanted: bool) -> Check:
    """Whether a model is on this machine.

    Args:
        name: as given to `--model`.
        found: its folder, or the sentence about what is wrong and what to do.
        wanted: asked for by name, so that it must be here.
    """
    title = f"model {name}"
    if isinstance(found, Path):
        files = [path for ending in WEIGHTS for path in found.glob(f"*{ending}")]
        size = sum(path.stat().st_size for path in files)
        return Check(title, Status.OK, f"{gigabytes(size)} in {found}")
    problem, _, remedy = str(found).partition(": ")
    status = Status.FAILED if wanted else Status.WARNING
    return Check(title, status, problem, remedy or f"svd-vlm download {name}")


def check_cameras(outcome: Outcome, domain: str, seconds: float) -> list[Check]:
    """The image topics on the graph with their QoS: one check each, or one that there are none."""
    if outcome.error:
        return [
            Check(
                "cameras",
                Status.FAILED,
                f"the ROS graph can't be read: {outcome.error}",
                "check RMW_IMPLEMENTATION and that its package is installed",
            )
        ]
    if not outcome.found["cameras"]:
        return [
            Check(
                "cameras",
                Status.WARNING,
                f"no image topic seen in {seconds:g} s in domain {domain}",
                "start a camera driver or scout_camera; is its ROS_DOMAIN_ID the same?",
            )
        ]
    return [_check_camera(camera, seconds) for camera in outcome.found["cameras"]]


def _check_camera(camera: Mapping[str, Any], seconds: float) -> Check:
    qos = sorted({publisher["reliability"].replace("_", " ") for publisher in camera["publishers"]})
    detail = f"{camera['type']}, {' and '.join(qos) or 'publisher gone'}"
    name = f"camera {camera['topic']}"
    if not camera["images"]:
        return Check(
            name,
            Status.WARNING,
            f"{detail}: no image in {seconds:g} s",
            "does the driver run? Over a radio link, use the compressed topic",
        )
    rate = f", {camera['rate']:.1f} Hz" if camera["rate"] else ""
    return Check(name, Status.OK, f"{detail}{rate}, {camera['format']}")
