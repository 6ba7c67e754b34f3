# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm doctor`: what each finding means, and the real thing on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svd_vlm_ros.cli import checks, doctor, domain, processes
from svd_vlm_ros.cli.checks import Check, Status
from svd_vlm_ros.cli.main import app
from svd_vlm_ros.cli.probing import Outcome, read_outcome, run_probe
from svd_vlm_ros.errors import UserError

GPU = {"name": "Orin", "capability": "8.7", "memory": 7_800_000_000}
JETSON = "Jetson Orin Nano, L4T R36.4.3"


def torch_found(**changes: object) -> Outcome:
    found = {"torch": "2.13.0", "cuda": None, "devices": [], "threads": 6}
    return Outcome({**found, **changes})


# How a probe's process may end


def test_the_last_line_of_a_probe_is_what_it_found() -> None:
    outcome = read_outcome(0, 'noise\n\n{"rmw": "rmw_fastrtps_cpp"}\n', "")
    assert outcome == Outcome({"rmw": "rmw_fastrtps_cpp"})
    assert read_outcome(0, '{"error": "ImportError: x"}', "").error == "ImportError: x"


@pytest.mark.parametrize(
    ("status", "out", "err", "words"),
    [
        (-6, "", "terminate called\n\n", "ended by SIGABRT (terminate called)"),
        (-11, "half a li", "", "ended by SIGSEGV (it printed nothing)"),
        (-99, "", "", "ended by signal 99"),
        (3, "[1]", "oh no", "ended with status 3 (oh no)"),
    ],
)
def test_a_crash_is_named(status: int, out: str, err: str, words: str) -> None:
    assert words in read_outcome(status, out, err).error


def test_a_probe_that_hangs_is_ended() -> None:
    assert run_probe("numpy_opencv", limit=0.01).error.startswith("no result within")


def test_a_probe_reports_what_it_cannot_do() -> None:
    assert "KeyError" in run_probe("no such probe").error
    assert "TypeError" in run_probe("numpy_opencv", "superfluous").error


# What the findings mean


def test_python() -> None:
    assert checks.check_python((3, 12, 3), "/bin/python3").status is Status.OK
    assert checks.check_python((3, 9, 9), "/bin/python3").status is Status.FAILED


def test_ros() -> None:
    good = Outcome({"rmw": "rmw_cyclonedds_cpp"})
    check = checks.check_ros(good, {"ROS_DISTRO": "jazzy", "ROS_DOMAIN_ID": "7"})
    assert check == Check("ROS 2", Status.OK, "jazzy, rmw_cyclonedds_cpp, domain 7")
    wheels = checks.check_ros(good, {}, wheels="7.1.6").detail
    assert wheels == "jazzy (rclpy 7.1.6 from PyPI), rmw_cyclonedds_cpp, domain 0"
    hidden = checks.check_ros(good, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "off"})
    assert hidden.status is Status.WARNING


def test_no_ros_is_a_warning_and_a_broken_one_a_failure() -> None:
    absent = Outcome(error="ModuleNotFoundError: No module named 'rclpy'")
    assert checks.check_ros(absent, {}).status is Status.WARNING
    sourced = checks.check_ros(absent, {}, installed=["humble", "jazzy"])
    assert "source /opt/ros/jazzy/setup.bash" in sourced.remedy
    broken = Outcome(error="ImportError: the C extension isn't present on the system")
    assert checks.check_ros(broken, {}).status is Status.FAILED


def test_interfaces() -> None:
    good = Outcome({"interfaces": ["AskScene", "SceneDescription"]})
    assert checks.check_interfaces(good).status is Status.OK
    absent = Outcome(error="ModuleNotFoundError: No module named 'svd_vlm_ros.srv'")
    check = checks.check_interfaces(absent)
    assert check.status is Status.FAILED
    assert "colcon build" in check.remedy


def test_numpy_and_opencv() -> None:
    found = {"numpy": "2.4.6", "opencv": "4.12.0", "jpeg": True}
    assert checks.check_numpy_opencv(Outcome(found)).status is Status.OK
    assert checks.check_numpy_opencv(Outcome({**found, "jpeg": False})).status is Status.FAILED
    absent = Outcome(error="ImportError: libGL.so.1: cannot open shared object file")
    assert checks.check_numpy_opencv(absent).status is Status.FAILED
    clash = Outcome(error="ImportError: numpy.core.multiarray failed to import")
    assert "numpy<2" in checks.check_numpy_opencv(clash).remedy
    assert "numpy<2" not in checks.check_numpy_opencv(absent).remedy


def test_cv_bridge_is_optional_and_its_crash_a_warning() -> None:
    good = Outcome({"numpy": "1.26.4", "same": True})
    assert checks.check_cv_bridge(good, "1.26.4").status is Status.OK
    absent = Outcome(error="ModuleNotFoundError: No module named 'cv_bridge'")
    assert checks.check_cv_bridge(absent, "2.4.6").status is Status.OK
    for trouble in (
        Outcome(error="the process was ended by SIGABRT (it printed nothing)"),
        Outcome(error="AttributeError: _ARRAY_API not found"),
        Outcome({"numpy": "2.4.6", "same": False}),
    ):
        check = checks.check_cv_bridge(trouble, "2.4.6")
        assert check.status is Status.WARNING
        assert "numpy<2" in check.remedy


def test_torch() -> None:
    assert checks.check_torch(torch_found(), None, nvidia=False).status is Status.OK
    with_gpu = checks.check_torch(torch_found(devices=[GPU]), None, nvidia=True)
    assert with_gpu.status is Status.OK
    assert "Orin (capability 8.7, 7.80 GB)" in with_gpu.detail
    assert checks.check_torch(torch_found(), None, nvidia=True).status is Status.WARNING
    absent = Outcome(error="ModuleNotFoundError: No module named 'torch'")
    assert checks.check_torch(absent, None, nvidia=False).status is Status.FAILED


def test_torch_without_the_gpu_of_a_jetson_fails() -> None:
    check = checks.check_torch(torch_found(), JETSON, nvidia=False)
    assert check.status is Status.FAILED
    assert JETSON in check.detail
    assert "docs/models.md" in check.remedy


def test_a_jetson_is_recognised() -> None:
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64"
    board = "NVIDIA Jetson Orin Nano Developer Kit\0"
    assert checks.read_jetson(release, board) == "Jetson Orin Nano Developer Kit, L4T R36.4.3"
    assert checks.read_jetson("something new", None) == "a Jetson, L4T of unknown version"
    assert checks.read_jetson(None, None) is None


def test_a_good_and_a_wrong_product() -> None:
    good = checks.check_product("int4", "cpu", "0.50.2", Outcome({"error_of_product": 0.09}))
    assert good.status is Status.OK
    assert "9.0%" in good.detail
    for kind, error in (("int8", 0.09), ("int4", 1.0), ("int8", float("nan"))):
        outcome = Outcome({"error_of_product": error})
        assert checks.check_product(kind, "cuda", "0.50.2", outcome).status is Status.FAILED


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError: Error named symbol not found at line 449 in file /src/csrc/ops.cu",
        "the process was ended by SIGABRT (Error named symbol not found at line 62)",
        "no result within 120 s",
    ],
)
def test_a_failing_product_on_a_jetson_names_the_build(error: str) -> None:
    check = checks.check_product("int8", "cuda", "0.50.2", Outcome(error=error), JETSON, "8.7")
    assert check.status is Status.FAILED
    assert error in check.detail
    assert "not for a Jetson's L4T" in check.detail
    assert "-DCOMPUTE_BACKEND=cuda -DCOMPUTE_CAPABILITY=87" in check.remedy


def test_a_failing_product_elsewhere() -> None:
    new_gpu = Outcome(error="RuntimeError: CUDA error: no kernel image is available")
    check = checks.check_product("int4", "cuda", "0.50.2", new_gpu, None, "12.0")
    assert check.status is Status.FAILED
    assert "-DCOMPUTE_CAPABILITY=120" in check.remedy
    memory = Outcome(error="OutOfMemoryError: CUDA out of memory")
    assert "COMPUTE" not in checks.check_product("int4", "cuda", "0.50.2", memory).remedy
    # The CPU of a Jetson is a CPU: another build for its GPU would not help.
    on_cpu = checks.check_product("int8", "cpu", "0.50.2", memory, JETSON, "8.7")
    assert "COMPUTE" not in on_cpu.remedy


def test_without_bitsandbytes_there_is_a_warning() -> None:
    check = checks.check_product("int8", "cpu", None, Outcome())
    assert check.status is Status.WARNING
    assert "pip install bitsandbytes" in check.remedy


def test_cameras() -> None:
    publisher = {"node": "driver", "reliability": "best_effort", "durability": "volatile"}
    camera = {
        "topic": "/front/image_raw",
        "type": "Image",
        "publishers": [publisher, {**publisher, "reliability": "reliable"}],
        "images": 30,
        "rate": 14.96,
        "format": "1920x1080 rgb8",
    }
    silent = {**camera, "topic": "/rear", "images": 0, "rate": None, "format": None}
    first, second = checks.check_cameras(Outcome({"cameras": [camera, silent]}), "0", 2.0)
    assert first.status is Status.OK
    assert first.name == "camera /front/image_raw"
    assert first.detail == "Image, best effort and reliable, 15.0 Hz, 1920x1080 rgb8"
    assert second.status is Status.WARNING
    assert "no image in 2 s" in second.detail
    (none,) = checks.check_cameras(Outcome({"cameras": []}), "7", 2.0)
    assert none.status is Status.WARNING
    assert "domain 7" in none.detail
    (broken,) = checks.check_cameras(Outcome(error="RMWError"), "0", 2.0)
    assert broken.status is Status.FAILED


def test_models() -> None:
    absent = UserError("The model a/b is not here: fetch it with 'svd-vlm download a/b'.")
    wanted = checks.check_model("a/b", absent, wanted=True)
    assert wanted == Check(
        "model a/b",
        Status.FAILED,
        "The model a/b is not here",
        "fetch it with 'svd-vlm download a/b'.",
    )
    assert checks.check_model("a/b", absent, wanted=False).status is Status.WARNING
    assert checks.check_model("a/b", UserError("Broken."), wanted=True).remedy


def test_a_model_that_is_here_is_shown_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "1.safetensors").write_bytes(bytes(1000))
    (tmp_path / "2.safetensors").write_bytes(bytes(500))
    check = checks.check_model(str(tmp_path), tmp_path, wanted=True)
    assert check.status is Status.OK
    assert check.detail == f"1.5 kB in {tmp_path}"


def test_an_export_is_a_model_that_is_here(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "decoder.onnx.data").write_bytes(bytes(2000))
    found = {check.name: check for check in doctor._check_models(str(tmp_path))}
    assert found[f"model {tmp_path}"].detail == f"2.0 kB in {tmp_path}"


def test_onnxruntime_alone_is_a_way_to_run() -> None:
    alone = checks.check_onnxruntime("1.32.0", alone=True)
    assert (alone.name, alone.status) == ("runtime onnx", Status.OK)
    assert "1.32.0, without torch: models run that 'svd-vlm export onnx'" in alone.detail
    assert "torch" not in checks.check_onnxruntime("1.32.0", alone=False).detail


def test_the_model_that_is_asked_for_has_to_be_here() -> None:
    found = {check.name: check for check in doctor._check_models("nobody/nothing")}
    assert list(found) == ["model scout", "model llava-hf/llava-1.5-7b-hf", "model nobody/nothing"]
    assert found["model nobody/nothing"].status is Status.FAILED
    assert "svd-vlm download nobody/nothing" in found["model nobody/nothing"].remedy


@pytest.mark.parametrize(("status", "exit_status"), [("ok", 0), ("warning", 0), ("failed", 1)])
def test_the_table_and_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, status: str, exit_status: int
) -> None:
    check = Check("the [b]thing[/b]", Status(status), "found", "mend it")
    monkeypatch.setattr(doctor, "examine", lambda model, seconds: [check])
    ran = CliRunner().invoke(app, ["doctor"])
    assert ran.exit_code == exit_status
    for words in (status, "the [b]thing[/b]", "found", "do: mend it", f"1 {status}"):
        assert words in ran.stdout
    as_json = CliRunner().invoke(app, ["doctor", "--json"])
    assert as_json.exit_code == exit_status
    assert json.loads(as_json.stdout)["checks"] == [
        {"name": check.name, "status": status, "detail": "found", "remedy": "mend it"}
    ]


# The real thing


def test_a_camera_on_the_graph_is_seen(
    ros_domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = domain.private_graph(ros_domain)
    for name, value in graph.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    command = processes.module_command("svd_vlm_ros.scout.camera")
    with (tmp_path / "log").open("wb") as log:
        camera = processes.start(command, log)
    try:
        for _ in range(20):  # until the camera has started
            outcome = run_probe("cameras", "2")
            if outcome.error or outcome.found["cameras"]:
                break
    finally:
        processes.stop([camera])
    (check,) = checks.check_cameras(outcome, "1", 2.0)
    assert check.name == "camera /image"
    assert check.status is Status.OK, (tmp_path / "log").read_text()
    assert check.detail.startswith("Image, reliable, ")
    assert check.detail.endswith(" Hz, 336x336 rgb8")


def test_doctor_on_this_machine(svd_vlm, tmp_path: Path) -> None:
    ran = svd_vlm("doctor", "--json", "--seconds", "0.3", HF_HOME=str(tmp_path), timeout=115)
    found = {check["name"]: check for check in json.loads(ran.out)["checks"]}
    assert ran.status == (1 if any(c["status"] == "failed" for c in found.values()) else 0)
    assert found["Python"]["status"] == "ok"
    assert ".".join(map(str, sys.version_info[:3])) in found["Python"]["detail"]
    for name in ("NumPy, OpenCV", "torch", "transformers", "int8 on cpu", "int4 on cpu"):
        assert found[name]["status"] == "ok", found[name]
    assert found["model scout"]["status"] == "ok", found["model scout"]
    assert found["model llava-hf/llava-1.5-7b-hf"]["status"] == "warning"
    assert all(check["remedy"] for check in found.values() if check["status"] != "ok")
    if found["ROS 2"]["status"] == "ok":
        assert found["interfaces"]["status"] == "ok"
        assert found["cameras"]["status"] == "warning"
