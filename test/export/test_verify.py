# SPDX-License-Identifier: Apache-2.0
"""`verify`: an export beside its model, with a verdict that can fail."""

import json
import shutil

import numpy as np
import onnx
import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.folder import file_digest
from svd_vlm_ros.export.verify import verify
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene

IMAGES = [render(sample_scene(HELD_OUT_SEEDS[0]))]
QUESTIONS = ["what is the ground?"]


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_an_export_of_scout_agrees_with_scout(exported, precision):
    report = verify(exported("scout", precision), IMAGES, QUESTIONS, threads=1)
    assert report.reference == "fp32"
    assert len(report.rows) == 7
    assert report.agrees, report.rows
    found = {row.what: row.found for row in report.rows}
    assert (found["logits"] > 0) or precision == "fp32"


@pytest.mark.parametrize(("selector", "kept"), [("hired", 64), ("none", 576)])
def test_other_selectors_and_budgets(exported, selector, kept):
    folder = exported("scout")
    report = verify(folder, IMAGES, QUESTIONS, selector=selector, visual_tokens=kept, threads=1)
    assert report.agrees, report.rows


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_random_model_is_made_again_to_compare_with(exported, precision):
    seen = []
    report = verify(
        exported("random:tiny", precision),
        IMAGES,
        QUESTIONS,
        threads=1,
        on_progress=lambda *step: seen.append(step),
    )
    assert report.agrees, report.rows
    assert report.rows[-1].allowed == (1.0 if precision == "fp32" else 0.0)
    assert seen == [("reading", 0, 1), ("comparing", 1, 1)]


def test_a_wrong_weight_is_found(exported, tmp_path):
    """One norm of the decoder is not what it was; file and checksum belong together."""
    copy = tmp_path / "copy"
    shutil.copytree(exported("scout"), copy)
    model = onnx.load(copy / "decoder.onnx", load_external_data=False)
    name = "layers.2.input_layernorm.weight"
    (norm,) = (each for each in model.graph.initializer if each.name == name)
    offset = {each.key: each.value for each in norm.external_data}["offset"]
    with open(copy / "decoder.onnx.data", "r+b") as file:
        file.seek(int(offset))
        file.write(np.full(64, 3.0, np.float32).tobytes())
    content = json.loads((copy / "manifest.json").read_text())
    content["files"]["decoder.onnx.data"]["sha256"] = file_digest(copy / "decoder.onnx.data")
    (copy / "manifest.json").write_text(json.dumps(content))
    report = verify(copy, IMAGES, QUESTIONS, threads=1)
    assert not report.agrees
    assert next(row.what for row in report.rows if not row.agrees) == "logits"


def test_what_can_t_be_compared_is_refused(exported, tmp_path):
    folder = exported("scout")
    with pytest.raises(UserError, match="Nothing is given"):
        verify(folder, [], QUESTIONS)
    with pytest.raises(UserError, match="'trim' does not choose by the features alone"):
        verify(folder, IMAGES, QUESTIONS, selector="trim")
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        verify(tmp_path, IMAGES, QUESTIONS)
