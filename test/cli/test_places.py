# SPDX-License-Identifier: Apache-2.0
"""Files that cannot be written are refused before a model is looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from command import run_svd_vlm

sys.path.insert(0, str(Path(__file__).parents[1] / "bags"))  # no test folder is on the path
NOWHERE = Path("/proc")  # a folder in which not even root can write
ABSENT = ("--model", "nobody/nothing")  # an error about it comes from the first that looks for it


def test_annotate_into_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="needs rosbags")
    from recorded import make_bag

    bag = make_bag(tmp_path / "drive", 2)
    ran = run_svd_vlm("annotate", bag, "--out", NOWHERE / "seen.mcap", *ABSENT)
    assert ran.status == 1
    (line,) = ran.lines
    assert f"Can't write {NOWHERE}/seen.mcap" in line
    assert "choose another place" in line
    assert "kept" not in line


@pytest.mark.parametrize("what", [("ask", "what is there?"), ("describe",)])
def test_an_overlay_that_cannot_be_written(tmp_path: Path, what: tuple[str, ...]) -> None:
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    command, *question = what
    overlay = NOWHERE / "kept.png"
    ran = run_svd_vlm(command, image, *question, "--overlay", overlay, *ABSENT)
    assert ran.status == 1
    (line,) = ran.lines
    assert f"Can't write {overlay}" in line
