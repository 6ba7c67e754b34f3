# SPDX-License-Identifier: Apache-2.0
"""Files of answers: cut lines, broken lines, duplicates, two writers, other settings, shards."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.cells import Cell, corruption_of, plan_cells
from svd_vlm_ros.evaluation.finishing import Ending, finish, open_results
from svd_vlm_ros.evaluation.records import read_folder, shard_path
from svd_vlm_ros.journal import Journal

SETTINGS = {"task": "scout", "model": "scout", "seed": 0}
CELL = Cell("bf16", "svd", 16)


def answer(question: str, score: float = 1.0, **changed: Any) -> dict[str, Any]:
    image = question.split("/")[0]
    return {
        "record": "answer",
        "cell": CELL.key,
        "id": question,
        "picture": image,
        "kind": "color",
        "answer": "röt",
        "score": score,
        "tokens": 16.0,
        **changed,
    }


def write(folder: Path, lines: list[dict[str, Any]], rank: int = 0) -> None:
    with Journal(shard_path(folder, rank), SETTINGS) as journal:
        journal.write(lines)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, [answer("1/a"), answer("1/b", 0.3)])

    found = read_folder(tmp_path)

    assert found.settings == SETTINGS
    assert found.answers[CELL.key]["1/b"].score == 0.3
    assert found.answers[CELL.key]["1/a"].answer == "röt"
    assert found.warnings() == []


def test_a_line_cut_anywhere_is_done_again(tmp_path: Path) -> None:
    write(tmp_path, [answer("1/a"), answer("1/b")])
    path = shard_path(tmp_path, 0)
    whole = path.read_bytes()
    begin = whole.rstrip().rfind(b"\n") + 1
    for cut in range(begin + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert set(read_folder(tmp_path).answers[CELL.key]) == {"1/a"}
        write(tmp_path, [answer("1/b")])
        assert path.read_bytes() == whole


def test_a_cut_first_line_is_begun_again(tmp_path: Path) -> None:
    shard_path(tmp_path, 0).write_bytes(b'{"record": "sett')

    write(tmp_path, [answer("1/a")])

    assert read_folder(tmp_path).settings == SETTINGS


def test_a_line_broken_in_the_middle_is_named(tmp_path: Path) -> None:
    write(tmp_path, [answer("1/a"), answer("1/b"), answer("1/c")])
    path = shard_path(tmp_path, 0)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"\x00\x00\x00\n"
    path.write_bytes(b"".join(lines))

    found = read_folder(tmp_path)

    assert set(found.answers[CELL.key]) == {"1/a", "1/c"}
    assert found.warnings() == ["Broken lines were left out: answers-00.jsonl, line 3."]


def test_a_question_answered_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path, [answer("1/a", 1.0), answer("1/a", 0.0)])

    found = read_folder(tmp_path)

    assert found.answers[CELL.key]["1/a"].score == 1.0
    assert found.warnings() == ["1 questions were answered twice: the first answer counts."]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [answer("1/a")])
    before = shard_path(tmp_path, 0).read_bytes()

    with pytest.raises(UserError, match=r"other settings \(seed: 0, not 1\): name another --out"):
        Journal(shard_path(tmp_path, 0), {**SETTINGS, "seed": 1})
    assert shard_path(tmp_path, 0).read_bytes() == before

    with (
        Journal(shard_path(tmp_path, 1), {**SETTINGS, "seed": 1}),
        pytest.raises(UserError, match="Two files of answers"),
    ):
        read_folder(tmp_path)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = shard_path(tmp_path, 0)
    with Journal(path, SETTINGS), pytest.raises(UserError, match="Another run"):
        Journal(path, SETTINGS)
    Journal(path, SETTINGS).close()


def test_shards_are_merged_once_nothing_is_missing(tmp_path: Path) -> None:
    questions = {"1/a": "1", "2/a": "2", "3/a": "3"}
    write(tmp_path, [answer("1/a"), answer("3/a")], rank=0)
    assert finish(tmp_path, [CELL], questions).lacking == 1
    assert not (tmp_path / "answers.jsonl").exists()

    write(tmp_path, [answer("2/a", 0.0)], rank=1)
    begun = time.time() - 1
    assert finish(tmp_path, [CELL], questions, begun) == Ending(0)
    assert finish(tmp_path, [CELL], questions, begun) == Ending(0, reported=True)

    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines[1:]] == [
        answer("1/a"),
        answer("2/a", 0.0),
        answer("3/a"),
    ]
    assert "66.7" in (tmp_path / "table.md").read_text()
    assert read_folder(tmp_path).duplicates == 0  # what is merged is not read again


def test_what_has_a_reason_is_no_gap(tmp_path: Path) -> None:
    other = Cell("bf16", "fastv", 16)
    write(
        tmp_path,
        [
            answer("1/a"),
            {"record": "unread", "picture": "2", "reason": "cut"},
            {"record": "refused", "cell": other.key, "picture": "1", "reason": "impossible."},
        ],
    )

    assert finish(tmp_path, [CELL, other], {"1/a": "1", "2/a": "2"}).lacking == 0
    table = (tmp_path / "table.md").read_text()
    assert "1. `fastv` at 16: impossible." in table
    assert "could not be read: 2" in table


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no answers in"):
        open_results(tmp_path)


def test_all_tokens_are_one_cell() -> None:
    cells = plan_cells("bf16", ["svd", "none", "grid"], [576, 64], ["clean", "fog 3"], 576)

    assert [(c.selector, c.tokens) for c in cells if c.condition == "clean"] == [
        ("none", 576),
        ("svd", 64),
        ("grid", 64),
    ]
    assert len(cells) == 6
    assert all(Cell.from_key(cell.key) == cell for cell in cells)
    assert corruption_of("fog 3") == ("fog", 3)
    assert corruption_of("clean") is None
