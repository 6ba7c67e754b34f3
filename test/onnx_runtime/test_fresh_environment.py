# SPDX-License-Identifier: Apache-2.0
"""In an environment without torch and transformers the command and the node answer, as torch does.

The environment is a virtual one of its own, with what `svd_vlm_ros[onnx]` needs less torch's part.
"""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from fresh_environment import closure, make_environment
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from svd_vlm_ros.images.disk import write_image
from svd_vlm_ros.srv import AskScene

# setup.py: RUNTIMES["torch"].
TORCH = {"accelerate", "bitsandbytes", "safetensors", "torch", "transformers"}
QUESTION = "Describe the scene."
PATIENCE = 90.0  # s; a bound against hanging


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment without torch and transformers."""
    distributions = closure("svd_vlm_ros", {"onnx"}, TORCH)
    try:
        return make_environment(tmp_path_factory.mktemp("fresh") / "venv", distributions)
    except FileNotFoundError as error:
        pytest.skip(f"{error}: what the system has installed can't be taken along")


@pytest.fixture(scope="module")
def image():
    """A scene of scout's, with edges that pad."""
    from svd_vlm_ros.scout.render import render
    from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene

    return np.ascontiguousarray(render(sample_scene(HELD_OUT_SEEDS[3]))[30:250])


def run(python, *arguments):
    return subprocess.run(
        [str(python), *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("module", ["torch", "transformers", "safetensors", "bitsandbytes"])
def test_there_is_none(python, module):
    done = run(python, "-c", f"import {module}")
    assert f"No module named '{module}'" in done.stderr


def test_there_is_what_the_runtime_needs(python):
    done = run(python, "-c", "import onnxruntime, tokenizers, cv2, numpy, rclpy, svd_vlm_ros.srv")
    assert done.returncode == 0, done.stderr


def test_the_command_answers_as_torch_does(python, exported, stock, image, tmp_path):
    path = tmp_path / "scene.png"
    write_image(path, image)
    arguments = (str(path), QUESTION, "--model", str(exported), "--runtime", "onnx", "--json")
    done = run(python, "-m", "svd_vlm_ros.cli.main", "ask", *arguments)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    wanted = stock.ask(stock.see(image), QUESTION)
    assert (record["answer"], record["runtime"]) == (wanted.text, "onnx")
    assert record["confidence"] == pytest.approx(wanted.confidence, abs=1e-4)


def test_a_model_of_torch_is_refused_there_in_a_sentence(python, tmp_path, image):
    path = tmp_path / "scene.png"
    write_image(path, image)
    done = run(python, "-m", "svd_vlm_ros.cli.main", "ask", str(path), QUESTION, "--model", "scout")
    assert done.returncode == 1
    assert "The runtime torch needs torch and transformers" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_the_doctor_has_nothing_to_mend_there(python):
    done = run(python, "-m", "svd_vlm_ros.cli.main", "doctor", "--json", "--seconds", "0.1")
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert "without torch" in found["runtime onnx"]["detail"]
    assert "torch" not in found
    assert "transformers" not in found
    assert [name for name, check in found.items() if check["status"] == "failed"] == []
    assert done.returncode == 0


@pytest.fixture
def node(python, exported, ros_domain, tmp_path):
    """The node as a process of that environment."""
    parameters = {
        "model": exported,
        "runtime": "onnx",
        "device": "cpu",
        "description_period": 0.0,
        "max_image_age": 0.0,
        "max_new_tokens": 64,
    }
    given = [each for name, value in parameters.items() for each in ("-p", f"{name}:={value}")]
    process = subprocess.Popen(
        [str(python), "-u", "-m", "svd_vlm_ros.node.perception", "--ros-args", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def client(ros_domain):
    """Publishes images and asks, from this process."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    made = rclpy.create_node("robot", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(made)
    yield made, executor
    executor.shutdown()
    made.destroy_node()
    rclpy.shutdown(context=context)


def read_until(process, words):
    read = ""
    for line in process.stdout:
        read += line
        if words in line:
            return read
    raise AssertionError(f"no '{words}' in:\n{read}")


def test_the_node_answers_over_dds_as_torch_does(node, client, stock, image):
    log = read_until(node, "Active: ask on /ask_scene.")
    assert "in fp32 on cpu (onnx)" in log
    robot, executor = client
    publisher = robot.create_publisher(Image, "image", 1)
    asks = robot.create_client(AskScene, "ask_scene")
    height, width = image.shape[:2]
    message = Image(
        height=height, width=width, step=3 * width, encoding="rgb8", data=image.tobytes()
    )
    end, futures = time.monotonic() + PATIENCE, []

    def answered():
        return [
            future.result()
            for future in futures
            if future.done() and future.result().status == AskScene.Response.OK
        ]

    asked = 0.0
    while not answered():
        assert time.monotonic() < end
        publisher.publish(message)
        if asks.service_is_ready() and time.monotonic() - asked > 1.0:
            asked = time.monotonic()
            futures.append(asks.call_async(AskScene.Request(question=QUESTION)))
        executor.spin_once(timeout_sec=0.05)
    reply = answered()[0]
    wanted = stock.ask(stock.see(image), QUESTION)
    assert reply.answer == wanted.text
    assert reply.confidence == pytest.approx(wanted.confidence, abs=1e-4)
    assert (reply.stats.precision, reply.stats.visual_tokens_kept) == ("fp32", 192)

    libraries = Path(f"/proc/{node.pid}/maps").read_text(encoding="utf-8")
    assert "onnxruntime" in libraries
    assert "torch" not in libraries
    node.send_signal(signal.SIGINT)
    output, _ = node.communicate(timeout=PATIENCE)
    assert node.returncode == 0, output
    assert "Traceback" not in output
