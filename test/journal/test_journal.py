# SPDX-License-Identifier: Apache-2.0
"""A journal cut at any byte, broken, locked, of other work, on a full disk."""

import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.journal import Journal, differences, read_records

SETTINGS = {"model": "scout", "budgets": (16, 64), "prompt": None}
RECORDS = [{"id": number, "text": f"röt {number}"} for number in range(4)]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
RECORD = st.fixed_dictionaries({"id": st.integers(), "value": VALUES})


def found_in(path: Path) -> list[dict[str, Any]]:
    """The results of a journal without broken lines."""
    records = [record for _, record in read_records(path)]
    assert None not in records
    return [record for record in records if record and "id" in record]


def write(path: Path, records: list[dict[str, Any]], settings: dict[str, Any] = SETTINGS) -> None:
    with Journal(path, settings) as journal:
        journal.write(records)


@given(
    records=st.lists(RECORD, min_size=1, max_size=4),
    settings=st.dictionaries(st.text(), VALUES, max_size=3),
    data=st.data(),
)
def test_cut_at_any_byte_it_goes_on_to_the_same_bytes(
    records: list[dict[str, Any]], settings: dict[str, Any], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        write(path, records, settings)
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)), label="cut")])

        left = found_in(path)
        assert left == records[: len(left)]
        write(path, records[len(left) :], settings)

        assert path.read_bytes() == whole


@given(data=st.data())
def test_other_work_is_refused_before_a_byte_is_changed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        write(path, RECORDS)
        whole = path.read_bytes()
        cut = data.draw(st.integers(whole.index(b"\n") + 1, len(whole)), label="cut")
        path.write_bytes(whole[:cut])

        with pytest.raises(UserError, match=r"other settings \(prompt: None, not 'why\?'\): name"):
            Journal(path, {**SETTINGS, "prompt": "why?"})

        assert path.read_bytes() == whole[:cut]
        write(path, [])  # and the refused one has left no lock


def test_a_killed_process_leaves_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    code = (
        "import itertools, pathlib, sys, svd_vlm_ros.journal as j\n"
        "with j.Journal(pathlib.Path(sys.argv[1]), {}) as journal:\n"
        "    for number in itertools.count():\n"
        "        journal.write([{'id': number}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd="/")
    try:
        until = time.monotonic() + 60
        while not (path.exists() and path.read_bytes().count(b"\n") > 100):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        with pytest.raises(UserError, match=r"Another run is writing to .*: wait for it or"):
            Journal(path, {})
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    left = len(found_in(path))
    assert left >= 100
    write(path, [{"id": left}], {})
    assert [record["id"] for record in found_in(path)] == list(range(left + 1))


def test_a_second_writer_is_refused_until_the_first_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "made" / "journal"
    with Journal(path, SETTINGS) as journal:
        with pytest.raises(UserError, match="Another run is writing to"):
            Journal(path, SETTINGS)
        journal.delete()
    assert not path.exists()
    write(path, RECORDS)
    assert found_in(path) == RECORDS


def test_a_broken_line_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, RECORDS)
    lines = path.read_bytes().splitlines(keepends=True)
    for broken in (b"\x00\x00\n", b'{"id": \n', b"[1]\n", b"\xff\n", b"\n"):
        path.write_bytes(b"".join([*lines[:2], broken, *lines[3:]]))

        write(path, [RECORDS[1]])

        assert dict(read_records(path))[3] is None
        assert [record["id"] for _, record in read_records(path) if record and "id" in record] == [
            0,
            2,
            3,
            1,
        ]


@pytest.mark.parametrize("content", ["notes\n", '["a"]\n', '{"id": 0}\n', '{"settings": 1}\n'])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "journal"
    path.write_text(content)
    with pytest.raises(UserError, match="does not begin with the settings of a run"):
        Journal(path, SETTINGS)
    assert path.read_text() == content


def test_annotations_of_bags_from_before_are_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text(json.dumps({"work": SETTINGS}) + '\n{"id": 0, "text": "a"}\n{"id": 1, "te')
    write(path, [{"id": 1}])
    assert found_in(path) == [{"id": 0, "text": "a"}, {"id": 1}]


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_sentence_and_costs_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, RECORDS)
    with (
        disk_of(path.stat().st_size + 5),
        pytest.raises(UserError, match=r"make room or choose another place; .* from there"),
        Journal(path, SETTINGS) as journal,
    ):
        journal.write([{"id": 4, "text": "b" * 100}])
    assert found_in(path) == RECORDS
    write(path, [{"id": 4}])
    assert found_in(path) == [*RECORDS, {"id": 4}]


def test_a_disk_that_was_full_before_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    with disk_of(5), pytest.raises(UserError, match=r"another place\.$"):
        Journal(tmp_path / "journal", SETTINGS)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Can't write .*: make room or choose another place\.$"):
        Journal(tmp_path / "file" / "journal", SETTINGS)
    write(tmp_path / "journal", RECORDS)
    assert found_in(tmp_path / "journal") == RECORDS


def test_differences_are_few_and_short() -> None:
    begun = {"a": 1, "b": "x" * 1000, "c": [0] * 1000, "d": 1, "e": 0}
    sentence = differences(begun, {"a": 1})
    assert sentence.startswith("b: 'xxx")
    assert len(sentence) < 150
    assert "e:" not in sentence
    assert differences({}, {"e": 1}) == "e: None, not 1"
    assert differences({}, {"e": None}) == "e: None, not None"
