# SPDX-License-Identifier: Apache-2.0
"""What is installed is whole: cheap to import, all files in their places, interfaces that work."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import svd_vlm_ros

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(svd_vlm_ros.__file__).parent


def share_folder() -> Path:
    """<prefix>/share/svd_vlm_ros of the prefix whose lib/python3.x/*-packages has the package."""
    for parent in PACKAGE.parents:
        if (parent / "share" / "svd_vlm_ros" / "package.xml").is_file():
            return parent / "share" / "svd_vlm_ros"
    pytest.fail(f"no share/svd_vlm_ros in any folder above {PACKAGE}")


def test_the_tests_see_the_installed_package():
    assert ROOT / "svd_vlm_ros" != PACKAGE


def test_import_is_cheap():
    heavy = {"torch", "rclpy", "transformers", "cv2", "numpy", "typer"}
    code = "import sys, svd_vlm_ros, svd_vlm_ros.errors; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy & set(run.stdout.split()) == set()


def test_every_source_file_is_installed_unchanged():
    source = ROOT / "svd_vlm_ros"
    files = [path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert files
    differing = [
        str(path.relative_to(ROOT))
        for path in files
        if not (PACKAGE / path.relative_to(source)).is_file()
        or (PACKAGE / path.relative_to(source)).read_bytes() != path.read_bytes()
    ]
    assert differing == []


def test_nothing_is_installed_that_has_no_source():
    generated = {"msg", "srv", "action"}
    orphans = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in generated
        and not (ROOT / "svd_vlm_ros" / path.relative_to(PACKAGE)).is_file()
    ]
    assert orphans == []


@pytest.mark.parametrize("folder", ["launch", "config", "examples", "msg", "srv"])
def test_shared_files_are_installed(folder):
    files = [path for path in (ROOT / folder).iterdir() if path.is_file()]
    assert files
    for path in files:
        assert (share_folder() / folder / path.name).read_bytes() == path.read_bytes()


def test_the_environment_is_an_ament_prefix():
    prefix = share_folder().parents[1]
    assert (prefix / "share/ament_index/resource_index/packages/svd_vlm_ros").is_file()
    for name in ("perception_node", "scout_camera"):
        executable = prefix / "lib" / "svd_vlm_ros" / name
        assert os.access(executable, os.X_OK)
        tree = ast.parse(executable.read_text(encoding="utf-8"))
        imports = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        module = imports[0].removeprefix("svd_vlm_ros.").replace(".", "/")
        assert (PACKAGE / f"{module}.py").is_file()
    assert os.access(prefix / "bin" / "svd-vlm", os.X_OK)


def test_launch_files_are_python_and_configuration_is_yaml():
    import yaml

    for path in (ROOT / "launch").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert "generate_launch_description" in functions, path.name
    for path in (ROOT / "config").glob("*.yaml"):
        nodes = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert all("ros__parameters" in parameters for parameters in nodes.values()), path.name


def test_no_interface_is_dead():
    """Every message and service is built, and named by code of ours that serves or sends it."""
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for kind in ("msg", "srv", "action"):
        for path in (ROOT / kind).glob(f"*.{kind}"):
            assert f"{kind}/{path.name}" in cmake
            users = [
                source
                for source in (ROOT / "svd_vlm_ros").rglob("*.py")
                if path.stem in source.read_text(encoding="utf-8")
            ]
            assert users, f"{path.name} is used nowhere"


def test_a_question_goes_over_dds_and_comes_back(ros_domain):
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from svd_vlm_ros.srv import AskScene

    def answer(request, response):
        response.status = AskScene.Response.BUSY
        response.answer = request.question.upper()
        response.probabilities = [0.25, 0.75]
        response.header.stamp = request.not_before
        response.stats.peak_device_memory = 2**40
        return response

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node = rclpy.create_node("both_ends", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        node.create_service(AskScene, "ask_scene", answer)
        client = node.create_client(AskScene, "ask_scene")
        assert client.wait_for_service(timeout_sec=20)
        request = AskScene.Request(question="is it far?", choices=["yes", "no"])
        request.not_before.sec = 7
        future = client.call_async(request)
        executor.spin_until_future_complete(future, timeout_sec=20)
        reply = future.result()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert reply is not None
    assert reply.status == AskScene.Response.BUSY != AskScene.Response.OK
    assert reply.answer == "IS IT FAR?"
    assert list(reply.probabilities) == [0.25, 0.75]
    assert reply.header.stamp.sec == 7
    assert reply.stats.peak_device_memory == 2**40


def test_the_description_message_can_be_filled():
    message = pytest.importorskip("svd_vlm_ros.msg", reason="needs ROS 2").SceneDescription()
    assert set(message.get_fields_and_field_types()) == {
        "header",
        "camera",
        "text",
        "confidence",
        "facts",
        "stats",
    }
