# SPDX-License-Identifier: Apache-2.0
"""The way to TensorRT: operators on its list, a script that is right bash, options that exist."""

import json
import re
import shutil
import subprocess

import onnx
import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export import export_onnx, operators
from svd_vlm_ros.export.tensorrt import build, write_tensorrt
from svd_vlm_ros.onnx_runtime.manifest import GRAPHS

# Of trtexec's own help, 10.13; NVIDIA's guide from 10.x to 11.x says which are gone.
TRTEXEC_10 = {
    *("onnx", "saveEngine", "minShapes", "optShapes", "maxShapes", "profile", "memPoolSize"),
    *("builderOptimizationLevel", "timingCacheFile", "skipInference", "stronglyTyped", "help"),
    *("fp16", "bf16", "int8", "fp8", "int4", "best"),
}
TRTEXEC_11 = TRTEXEC_10 - {"fp16", "bf16", "int8", "fp8", "int4", "best"}


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of an export, in which files may be written."""

    def copy(precision):
        return shutil.copytree(exported("scout", precision), tmp_path / precision)

    return copy


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_operator_is_on_tensorrts_list(exported, precision, name):
    assert set(operators.PLAIN) <= operators.TENSORRT
    graph = onnx.load(exported("scout", precision) / name, load_external_data=False).graph
    constants = {each.name for each in graph.initializer}
    assert len(graph.node) > 5
    for node in graph.node:
        assert node.domain == ""
        assert node.op_type in operators.TENSORRT
        for place in operators.TENSORRT_CONSTANTS.get(node.op_type, ()):
            assert place >= len(node.input) or node.input[place] in constants
        if node.op_type == "DequantizeLinear":
            assert len(node.input) == 2  # no zero point but 0


def test_grouped_heads_need_no_other_operator(exported, small_checkpoint):
    graph = onnx.load(exported(small_checkpoint) / "decoder.onnx", load_external_data=False).graph
    assert {node.op_type for node in graph.node} <= operators.TENSORRT


@pytest.mark.parametrize(
    ("precision", "version"),
    [("fp32", 10), ("fp16", 10), ("int4", 10), ("fp16", 11), ("int4", 11), ("int8", 11)],
)
def test_the_script_is_right_bash_and_its_options_exist(folder, precision, version):
    script = write_tensorrt(folder(precision), context=512, version=version)
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = shutil.which("shellcheck")
    if shellcheck:
        subprocess.run([shellcheck, script], check=True)
    used = set(re.findall(r"(?<![\w-])--(\w+)", script.read_text())) - {"tensorrt"}
    assert {"onnx", "saveEngine", "minShapes", "maxShapes", "skipInference"} <= used
    assert used <= (TRTEXEC_10 if version == 10 else TRTEXEC_11)
    assert ("stronglyTyped" in used) == (precision == "fp16" and version == 10)
    assert "No Jetson has run" in script.with_name("README.md").read_text()


def test_the_script_calls_trtexec_with_shapes_of_every_input(folder, tmp_path):
    """By a trtexec that writes down what it is asked for."""
    fake = tmp_path / "trtexec"
    fake.write_text(
        "#!/usr/bin/env bash\n"
        'if [[ $1 == --help ]]; then echo "&&&& RUNNING [TensorRT v100300]"; exit; fi\n'
        'for word in "$@"; do echo "$word"; done >> asked.txt\n'
        'for word in "$@"; do [[ $word == --saveEngine=* ]] && touch "${word#*=}"; done; true\n'
    )
    fake.chmod(0o755)
    script = write_tensorrt(folder("fp16"), context=700, version=10)
    done = subprocess.run(
        ["bash", script], env={"PATH": "/usr/bin:/bin", "TRTEXEC": str(fake)}, check=False
    )
    assert done.returncode == 0
    place = script.parent
    assert {path.name for path in place.glob("*.engine")} == {
        *("vision.engine", "projector.engine", "decoder.engine")
    }
    asked = (place / "asked.txt").read_text().splitlines()
    assert [word for word in asked if word.startswith("--onnx")] == [
        *("--onnx=../vision.onnx", "--onnx=../projector.onnx", "--onnx=../decoder.onnx")
    ]
    assert asked.count("--profile=0") == asked.count("--profile=1") == 1
    graph = onnx.load(place.parent / "decoder.onnx", load_external_data=False).graph
    inputs = {each.name: each.type.tensor_type.shape.dim for each in graph.input}
    shapes = [_shapes(word) for word in asked if "Shapes=inputs_embeds" in word]
    assert len(shapes) == 6
    for each in shapes:
        assert set(each) == set(inputs)
        for name, sizes in inputs.items():
            for wanted, given in zip(sizes, each[name], strict=True):
                assert not wanted.dim_value or wanted.dim_value == given
    least, usual, most = shapes[:3]
    for name in inputs:
        bounds = zip(least[name], usual[name], most[name], strict=True)
        assert all(low <= middle <= high for low, middle, high in bounds)
    assert least["past_key.0"][2] == 0
    assert most["past_value.3"][2] == 700
    assert all(each["inputs_embeds"][1] == 1 for each in shapes[3:])


def _shapes(word):
    pairs = (each.split(":") for each in word.split("=", 1)[1].split(","))
    return {name: tuple(map(int, sizes.split("x"))) for name, sizes in pairs}


def test_a_trtexec_of_another_version_is_refused(folder, tmp_path):
    fake = tmp_path / "trtexec"
    fake.write_text('#!/usr/bin/env bash\necho "&&&& RUNNING [TensorRT v110500]"\n')
    fake.chmod(0o755)
    script = write_tensorrt(folder("fp16"), version=10)
    environment = {"PATH": "/usr/bin:/bin", "TRTEXEC": str(fake)}
    done = subprocess.run(
        ["bash", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "for TensorRT 10, trtexec says v110500" in done.stderr
    done = subprocess.run(
        ["bash", script],
        env={"PATH": "/usr/bin:/bin", "TRTEXEC": "/nowhere/trtexec"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no trtexec at /nowhere/trtexec" in done.stderr


def test_onnxruntimes_provider_gets_the_same_shapes(folder):
    script = write_tensorrt(folder("fp16"), context=300)
    options = json.loads(script.with_name("provider_options.json").read_text())
    assert set(options) == set(GRAPHS)
    decoder = options["decoder.onnx"]
    assert "past_key.3:1x4x300x64" in decoder["trt_profile_max_shapes"]
    assert "rows:1," in decoder["trt_profile_min_shapes"]
    assert all(isinstance(value, str) for each in options.values() for value in each.values())


def test_the_readme_says_which_modules_hold_it(folder):
    text = write_tensorrt(folder("int4")).with_name("README.md").read_text()
    assert "| Orin Nano 8 GB | 6.0 GB | fit |" in text
    assert "@" not in text
    assert "export with fp16" in text  # its activations are of 32 bits


def test_a_name_with_a_line_break_stays_in_its_comment(folder, tmp_path):
    copy = folder("fp16")
    content = json.loads((copy / "manifest.json").read_text())
    content["model"] = "my\nrm -rf model"
    (copy / "manifest.json").write_text(json.dumps(content))
    lines = write_tensorrt(copy).read_text().splitlines()
    assert next(line for line in lines if "rm -rf" in line).startswith("# ")


def test_what_tensorrt_does_not_read_is_refused(folder, monkeypatch):
    with pytest.raises(UserError, match="blocks of 4 bits, not of 8"):
        write_tensorrt(folder("int8"), version=10)
    fp16 = folder("fp16")
    with pytest.raises(UserError, match="contexts of 16 to 2048 tokens, not 4096"):
        write_tensorrt(fp16, context=4096)
    with pytest.raises(UserError, match="no script for TensorRT 8"):
        write_tensorrt(fp16, version=8)
    (fp16 / "decoder.onnx.data").unlink()
    with pytest.raises(UserError, match=r"decoder\.onnx\.data is missing"):
        write_tensorrt(fp16)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="trtexec is not on this machine"):
        build(fp16 / "tensorrt" / "build.sh")


def test_int4_for_a_gpu_is_built_as_it_is(tmp_path):
    out = export_onnx("random:tiny", tmp_path / "m", precision="int4", activations="float16")
    assert "--stronglyTyped" in write_tensorrt(out).read_text()
