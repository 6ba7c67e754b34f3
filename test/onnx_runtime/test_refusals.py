# SPDX-License-Identifier: Apache-2.0
"""What can't run is refused in one sentence that says why and what to do."""

import shutil

import numpy as np
import pytest

from svd_vlm_ros.engine import SceneEngine, check_selection, runtimes
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.onnx_runtime import sessions


def load(model, **options):
    return SceneEngine.load(str(model), **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "int4"}, "exported in fp32, but int4 was asked for"),
        ({"runtime": "torch"}, "is exported for the runtime onnx"),
        ({"runtime": "tensorflow"}, "no runtime 'tensorflow': take one of auto, torch, onnx"),
        ({"device": "cuda"}, "has no cuda: install onnxruntime-gpu"),
        ({"device": "tpu"}, "no device 'tpu': take auto, cpu, cuda"),
        ({"selector": "visionzip"}, "'visionzip' does not run in the runtime onnx: take one of"),
        ({"aspect": "stretch"}, "no aspect 'stretch'"),
        ({"min_pixels": 100}, "looks at images of one size"),
        ({"visual_tokens": 0}, "must be 1 or more"),
        ({"cpu_threads": -1}, "cpu_threads must be 0 or more"),
    ],
)
def test_options(exported, options, sentence):
    with pytest.raises(UserError, match=sentence):
        load(exported, **options)


def test_a_model_that_was_not_exported(tmp_path):
    for model in ("scout", "random:tiny", tmp_path):
        with pytest.raises(UserError, match=r"has no manifest\.json.*export the model"):
            load(model, runtime="onnx")


def test_auto_takes_onnx_for_an_export_and_torch_for_all_else(exported, monkeypatch):
    assert runtimes.runtime_of(str(exported)) == "onnx"
    assert runtimes.runtime_of("scout") == "torch"
    assert runtimes.find_model(str(exported)) == exported
    monkeypatch.chdir(exported.parent)
    (exported.parent / "scout").symlink_to(exported)
    assert runtimes.runtime_of("scout") == "torch"  # the embedded one, whatever lies here
    (exported.parent / "scout").unlink()


@pytest.mark.parametrize(
    ("missing", "model", "sentence"),
    [
        ("onnxruntime", None, "The runtime onnx needs onnxruntime, which is not installed.*onnx"),
        ("transformers", "scout", "The runtime torch needs transformers, which is not installed"),
    ],
)
def test_a_runtime_that_is_not_installed(exported, monkeypatch, missing, model, sentence):
    found = runtimes.importlib.util.find_spec
    monkeypatch.setattr(
        runtimes.importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(UserError, match=sentence):
        load(model or exported)


@pytest.mark.parametrize(
    "name", ["decoder.onnx", "decoder.onnx.data", "vision.onnx", "embeddings.npy", "tokenizer.json"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_a_damaged_export_is_refused_by_the_name_of_the_file(exported, tmp_path, name, damage):
    folder = shutil.copytree(exported, tmp_path / "damaged")
    path = folder / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as refused:
        load(folder)
    assert str(refused.value).count("\n") == 0


def test_a_selector_is_checked_without_weights(onnx):
    check_selection(onnx.info, "svd", {"rank": "budget"}, visual_tokens=64, token_cap=192)
    for name, options, sentence in (
        ("fastv", {}, "does not run in the runtime onnx"),
        ("svd", {"warm_start": True}, "has no option 'warm_start'"),
        ("nonsense", {}, "There is no selector"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_selection(onnx.info, name, options, visual_tokens=64, token_cap=192)
        with pytest.raises(UserError, match=sentence):
            onnx.use_selector(name, **options)
    assert onnx.info.selector == "svd-cover"


def test_a_scene_belongs_to_its_engine(onnx, stock):
    scene = stock.see(np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ValueError, match="another engine"):
        onnx.ask(scene, "is it dark?")


def test_what_does_not_fit_is_refused_with_the_sentence_of_torch(onnx, stock):
    sentences = []
    for engine in (onnx, stock):
        scene = engine.see(np.zeros((20, 30, 3), np.uint8), visual_tokens=16)
        with pytest.raises(UserError, match="there is room for") as refused:
            engine.ask(scene, "is the car red?", max_new_tokens=2040)
        sentences.append(str(refused.value))
    assert sentences[0] == sentences[1]


def test_a_closed_engine_says_so(exported):
    engine = load(exported)
    scene = engine.see(np.zeros((20, 30, 3), np.uint8))
    engine.close()
    for call in (lambda: engine.ask(scene, "is it dark?"), engine.warm_up):
        with pytest.raises(RuntimeError, match="was closed"):
            call()


def test_the_order_of_devices(tmp_path, monkeypatch):
    import onnxruntime

    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    assert str(sessions.resolve_device("auto", tmp_path)) == "cuda:0"
    with pytest.raises(UserError, match="write them with 'svd-vlm export tensorrt"):
        sessions.resolve_device("tensorrt", tmp_path)
    (tmp_path / sessions.TENSORRT).mkdir()
    (tmp_path / sessions.TENSORRT / sessions.OPTIONS).write_text("{}")
    assert str(sessions.resolve_device("auto", tmp_path)) == "tensorrt:0"
    assert str(sessions.resolve_device("cuda:1", tmp_path)) == "cuda:1"
    assert str(sessions.resolve_device("tensorrt", tmp_path)) == "tensorrt:0"
    assert str(sessions.resolve_device("cpu", tmp_path)) == "cpu"
    del there[:2]
    assert str(sessions.resolve_device("auto", tmp_path)) == "cpu"
    with pytest.raises(UserError, match="has no tensorrt"):
        sessions.resolve_device("tensorrt", tmp_path)


def test_engines_of_tensorrt_lie_in_the_export_wherever_the_process_runs(exported, tmp_path):
    from svd_vlm_ros.export.tensorrt import write_tensorrt

    folder = shutil.copytree(exported, tmp_path / "export")
    write_tensorrt(folder, context=1024, version=10)
    graph = folder / "projector.onnx"
    providers = sessions._providers(sessions.Device("tensorrt", 1), graph)
    name, options = providers[0]
    assert name == "TensorrtExecutionProvider"
    assert options["device_id"] == "1"
    assert options["trt_engine_cache_path"] == str(folder / "tensorrt")
    assert options["trt_profile_min_shapes"].startswith("rows:1x")
    assert providers[1:] == [
        ("CUDAExecutionProvider", {"device_id": "1"}),
        "CPUExecutionProvider",
    ]
    with pytest.raises(UserError, match=r"no options for other\.onnx"):
        sessions._providers(sessions.Device("tensorrt"), folder / "other.onnx")
