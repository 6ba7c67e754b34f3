# SPDX-License-Identifier: Apache-2.0
"""An exported folder is whole or not there, and says so when it is damaged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export import export_onnx, folder
from svd_vlm_ros.export.graph import ALIGNMENT
from svd_vlm_ros.onnx_runtime.manifest import NAME, Manifest


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of an export, to be damaged."""
    return Path(shutil.copytree(exported("random:tiny"), tmp_path / "copy"))


def edit(copy, change):
    content = json.loads((copy / NAME).read_text())
    change(content)
    (copy / NAME).write_text(json.dumps(content))


def test_the_manifest_says_what_is_there(exported):
    found = Manifest.read(exported("random:tiny"))
    assert set(found.files) == {path.name for path in found.folder.iterdir()} - {NAME}
    assert found.model == "random:tiny"
    assert found.random_weights
    assert found.sizes["kv_heads"] == 2
    assert found.sizes["patches"] == [24, 24]
    assert found.prompt["image_token"] == "<image>"
    assert "</s>" in found.prompt["special_tokens"]
    assert found.preprocess["size"] == 336
    assert found.aspects == ("pad", "crop")
    assert found.defaults["position_policy"] == "contiguous"
    scout = Manifest.read(exported("scout"))
    assert not scout.random_weights
    assert scout.license == "Apache-2.0"


def test_the_same_model_is_exported_to_the_same_bytes(exported, tmp_path):
    again = Manifest.read(export_onnx("random:tiny", tmp_path / "again"))
    assert again.files == Manifest.read(exported("random:tiny")).files


def test_weights_begin_at_pages(exported):
    import onnx

    graph = onnx.load(exported("scout") / "decoder.onnx", load_external_data=False).graph
    places = [
        {each.key: each.value for each in tensor.external_data}
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    assert len(places) > 30
    assert {place["location"] for place in places} == {"decoder.onnx.data"}
    assert all(int(place["offset"]) % ALIGNMENT == 0 for place in places)
    assert (exported("scout") / "decoder.onnx").stat().st_size < 100_000


@pytest.mark.parametrize(
    "name", ["decoder.onnx", "decoder.onnx.data", "vision.onnx.data", "embeddings.npy"]
)
def test_a_missing_a_truncated_and_a_changed_file_are_named(copy, name):
    path = copy / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(UserError, match=rf"{name} is damaged or is not the file"):
        Manifest.read(copy)
    Manifest.read(copy, checksums=False)  # its size is right
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=rf"{name} has \d+ bytes in place of {len(whole)}"):
        Manifest.read(copy, checksums=False)
    path.unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        Manifest.read(copy, checksums=False)


def test_a_file_of_another_export_is_refused(copy, exported):
    shutil.copyfile(exported("random:tiny", "fp16") / "vision.onnx", copy / "vision.onnx")
    with pytest.raises(UserError, match=r"vision\.onnx .*export the model again"):
        Manifest.read(copy)


def test_a_swapped_table_of_the_same_size_is_refused(copy):
    table, tokenizer = copy / "embeddings.npy", copy / "tokenizer.json"
    table.write_bytes(tokenizer.read_bytes()[:64].ljust(table.stat().st_size, b" "))
    with pytest.raises(UserError, match=r"embeddings\.npy"):
        Manifest.read(copy)
    with pytest.raises(UserError, match=r"embeddings\.npy can't be read"):
        Manifest.read(copy, checksums=False)


def test_another_versions_manifest_is_refused(copy):
    edit(copy, lambda content: content.update(format=2, svd_vlm_ros="9.9"))
    with pytest.raises(UserError, match=r"manifest\.json is of format 2 \(svd_vlm_ros 9\.9\)"):
        Manifest.read(copy)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda content: content.pop("files"), "incomplete"),
        (lambda content: content["files"].pop("decoder.onnx"), r"does not name decoder\.onnx"),
        (lambda content: content["sizes"].pop("heads"), "incomplete .*heads"),
        (lambda content: content["sizes"].update(layers="2"), "layers is no number"),
        (lambda content: content["prompt"].pop("template"), "prompt lacks template"),
        (lambda content: content["files"].update({"../x": {}}), "'../x' is no file's name"),
        (lambda content: content.update(aspects=None), "incomplete"),
        (lambda content: content["sizes"].update(vocabulary=7), r"embeddings\.npy is a table of"),
    ],
)
def test_a_damaged_manifest_is_named(copy, change, match):
    edit(copy, change)
    with pytest.raises(UserError, match=match):
        Manifest.read(copy, checksums=False)


def test_what_is_no_export_is_refused(tmp_path, copy):
    with pytest.raises(UserError, match="There is no folder"):
        Manifest.read(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        Manifest.read(tmp_path)
    (copy / NAME).write_text('{"format": 1')
    with pytest.raises(UserError, match=r"manifest\.json can't be read"):
        Manifest.read(copy)
    (copy / NAME).write_text("[]")
    with pytest.raises(UserError, match=r"manifest\.json holds no JSON object"):
        Manifest.read(copy)


def test_the_manifest_is_read_without_torch_transformers_and_onnx(exported):
    code = (
        "import sys; from pathlib import Path; from svd_vlm_ros.onnx_runtime.manifest import *; "
        "Manifest.read(Path(sys.argv[1])); print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(exported("random:tiny"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"torch", "transformers", "onnx", "cv2"} & set(run.stdout.split()) == set()


def test_a_place_that_is_taken_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is no folder"):
        export_onnx("random:tiny", tmp_path / "file")
    with pytest.raises(UserError, match="is not empty"):
        export_onnx("random:tiny", tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    Manifest.read(export_onnx("random:tiny", tmp_path / "empty"))


def test_a_full_disk_is_said_before_anything_is_written(tmp_path):
    match = r"needs 1000000\.00 GB, but the disk of"
    with pytest.raises(UserError, match=match), folder.new_folder(tmp_path / "out", 10**15):
        pytest.fail("it was written")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_an_export_that_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        export_onnx("random:tiny", tmp_path / "out", on_progress=_interrupt)
    assert not list(tmp_path.iterdir())


def _interrupt(part, done, total):
    if part == "vision.onnx":
        raise KeyboardInterrupt


def test_a_killed_export_leaves_nothing_that_looks_whole_and_the_next_one_tidies(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; "
        "from svd_vlm_ros.export import export_onnx; "
        "kill = lambda part, *_: part == 'vision.onnx' and os.kill(os.getpid(), signal.SIGKILL); "
        "export_onnx('random:tiny', Path(sys.argv[1]), on_progress=kill)"
    )
    out = tmp_path / "out"
    run = subprocess.run([sys.executable, "-c", code, str(out)], env=dict(os.environ), check=False)
    assert run.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.partial-")
    assert not (left / NAME).exists()
    with pytest.raises(UserError, match="There is no folder"):
        Manifest.read(out)
    Manifest.read(export_onnx("random:tiny", out))
    assert list(tmp_path.iterdir()) == [out]


def test_progress_reaches_the_end(tmp_path):
    seen = []
    export_onnx("random:tiny", tmp_path / "out", on_progress=lambda *each: seen.append(each))
    parts = list(dict.fromkeys(part for part, _, _ in seen))
    assert parts == ["decoder.onnx", "vision.onnx", "projector.onnx", "embeddings.npy"]
    done = [each for _, each, _ in seen]
    assert done == sorted(done)
    assert 0.8 < done[-1] / seen[-1][2] <= 1  # a layer of the tower is never computed
