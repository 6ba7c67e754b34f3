# SPDX-License-Identifier: Apache-2.0
"""What docs/models.md says of each family is what the commands beside it calculate."""

import re
from pathlib import Path

import pytest

from svd_vlm_ros.planning.flops import true_work
from svd_vlm_ros.planning.known import find_sizes
from svd_vlm_ros.planning.memory import weight_parts

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SIZES = (480, 640), (720, 1280)
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in PAGE.split("| `model_type` |")[1].split("\n\n")[0].splitlines()[2:]
]
LEFT = {
    "LLaVA-1.5-7B": "llava-1.5-7b",
    "LLaVA-NeXT-7B": "llava-v1.6-vicuna-7b",
    "Qwen3-VL-4B": "qwen3-vl-4b",
    "Qwen3-VL-2B": "qwen3-vl-2b",
    "SmolVLM2-2.2B": "smolvlm2-2.2b",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_tokens_and_gigabytes(row):
    _, names, tokens, gigabytes, *_ = row
    for name in names.split(", "):
        sizes = find_sizes(name)
        assert re.findall(r"\d+", tokens) == [str(sizes.view(size).tokens) for size in SIZES]
        made = [
            sum(part.bytes for part in weight_parts(sizes, precision)) / 1e9
            for precision in ("int4", "fp16")
        ]
        assert gigabytes == f"{made[0]:.1f} / {made[1]:.1f}"


@pytest.mark.parametrize("name", LEFT)
def test_what_64_tokens_leave(name):
    told = re.search(rf"(\d+) % of\s+{re.escape(name)}'s", PAGE)
    sizes = find_sizes(LEFT[name])
    everything = sizes.view(SIZES[1]).tokens
    left, whole = (true_work(sizes, tokens, image=SIZES[1]).total for tokens in (64, everything))
    assert told
    assert int(told[1]) == round(100 * left / whole)
