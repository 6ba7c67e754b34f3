# SPDX-License-Identifier: Apache-2.0
"""`svd-vlm annotate` on real bags: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rosbags", reason="needs rosbags")
from rosbags.rosbag2 import Reader, StoragePlugin

from svd_vlm_ros.bags.annotate import Work, annotate, journal_path
from svd_vlm_ros.bags.definitions import DESCRIPTION, build, definitions_folder, typestore
from svd_vlm_ros.bags.recording import image_topics, open_bag
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.facts import parse_fact
from svd_vlm_ros.journal import Journal

sys.path.insert(0, str(Path(__file__).parent))  # for recorded.py: no test folder is on the path
from recorded import BEGIN, FRONT, ODD, PERIOD, REAR, image, make_bag

TOPIC = "/scene_description"
FACT = parse_fact("path: is the path clear? [yes, no, maybe]")


@pytest.fixture(scope="module")
def engine() -> SceneEngine:
    return SceneEngine.load("random:tiny", precision="fp32", device="cpu")


def run(bag: Path, out: Path, engine: SceneEngine, **work: Any) -> Any:
    with open_bag(bag) as reader:
        return annotate(reader, bag, out, engine, Work(max_new_tokens=4, **work))


def read(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """The messages of each topic: log time and CDR."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    with Reader(path) as reader:
        for connection, log_time, data in reader.messages():
            found.setdefault(connection.topic, []).append((log_time, bytes(data)))
    return found


def descriptions(path: Path, topic: str = TOPIC) -> list[tuple[int, Any]]:
    store = typestore()
    return [(at, store.deserialize_cdr(data, DESCRIPTION)) for at, data in read(path)[topic]]


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_descriptions_stand_beside_their_images(
    tmp_path: Path, engine: SceneEngine, plugin: StoragePlugin
) -> None:
    bag, out = make_bag(tmp_path / "drive", 3, plugin), tmp_path / "seen.mcap"
    done = run(bag, out, engine, facts=(FACT,))
    assert (done.images, done.unreadable, done.topics) == (6, 0, (FRONT, REAR))
    before, after = read(bag), read(out)
    assert {topic: after[topic] for topic in before} == before, "the original topics, byte by byte"
    assert set(after) == {*before, TOPIC}
    store = typestore()
    stamps = {
        topic: [
            store.deserialize_cdr(data, f"sensor_msgs/msg/{kind}").header.stamp
            for _, data in before[topic]
        ]
        for topic, kind in ((FRONT, "Image"), (REAR, "CompressedImage"))
    }
    made = descriptions(out)
    assert Counter(each.camera for _, each in made) == {FRONT: 3, REAR: 3}
    for at, each in made:
        assert each.header.stamp in stamps[each.camera]
        assert each.header.frame_id == each.camera.split("/")[1]
        assert at in [log_time for log_time, _ in before[each.camera]]
    scene = engine.see(image(1))
    _, second = next(pair for pair in made if pair[1].header.stamp == stamps[FRONT][1])
    assert second.text == engine.describe(scene, max_new_tokens=4).text
    expected = engine.choose(scene, FACT.question, FACT.choices).probabilities
    assert second.facts[0].probabilities == pytest.approx(expected, abs=1e-6)
    assert second.facts[0].choices == list(FACT.choices)
    assert second.facts[0].value in FACT.choices
    assert second.stats.visual_tokens_kept == 192
    assert second.stats.decode_seconds == 0.0, "times would be another in every run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive", "seen.mcap"]


def test_the_file_is_one_that_ros_reads(tmp_path: Path, engine: SceneEngine) -> None:
    """Definition, hash and QoS of the new topic; those of the others as they were."""
    bag, out = make_bag(tmp_path / "drive", 1), tmp_path / "seen.mcap"
    run(bag, out, engine)
    with Reader(bag) as old, Reader(out) as new:
        given = {each.topic: each for each in new.connections}
        for each in old.connections:
            kept = given[each.topic]
            assert (kept.msgtype, kept.digest, kept.msgdef) == (
                each.msgtype,
                each.digest,
                each.msgdef,
            )
        made = given[TOPIC]
    assert "SceneFact[] facts" in made.msgdef.data.replace("svd_vlm_ros/", "")
    assert made.ext.offered_qos_profiles[0].reliability.name == "RELIABLE"
    compiled = definitions_folder() / "SceneDescription.json"
    if compiled.exists():  # an installed package: what ROS itself has
        assert made.digest in compiled.read_text()


def test_unreadable_images_are_left_out(tmp_path: Path, engine: SceneEngine) -> None:
    bag, out = make_bag(tmp_path / "drive", 4, broken={0, 2}), tmp_path / "seen.mcap"
    done = run(bag, out, engine, topics=(FRONT,))
    assert (done.images, done.unreadable) == (4, 2)
    assert "'32FC1' holds plain numbers" in done.reasons[FRONT]
    assert [(at - BEGIN) // PERIOD for at, _ in descriptions(out)] == [1, 3]


def test_every_so_often(tmp_path: Path, engine: SceneEngine) -> None:
    bag, out = make_bag(tmp_path / "drive", 7), tmp_path / "seen.mcap"
    done = run(bag, out, engine, period=0.25, topics=(FRONT,), describe=False, facts=(FACT,))
    assert done.images == 3
    assert [(at - BEGIN) // PERIOD for at, _ in descriptions(out)] == [0, 3, 6]


def command(bag: Path, out: Path) -> list[str]:
    words = f"annotate {bag} --out {out} --model random:tiny --precision fp32 --max-new-tokens 4"
    question = "path=is the path clear? [yes, no, maybe]"
    return [sys.executable, "-m", "svd_vlm_ros.cli.main", *words.split(), "-q", question]


def interrupt(call: list[str], journal: Path, lines: int, number: int) -> tuple[int, str]:
    """Run until the journal has so many lines, then send the signal; status and stderr."""
    process = subprocess.Popen(
        call,
        cwd="/",
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    end = time.monotonic() + 100
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None, "it ended before the signal"
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    return process.wait(), process.communicate()[1]


@pytest.mark.timeout(400)
def test_killed_stopped_and_the_disk_full_gives_the_same_bytes(
    tmp_path: Path, engine: SceneEngine
) -> None:
    bag, out = make_bag(tmp_path / "drive", 40), tmp_path / "seen.mcap"
    call, journal = command(bag, out), journal_path(out)
    status, _ = interrupt(call, journal, 5, signal.SIGKILL)
    assert status == -signal.SIGKILL
    with open(journal, "ab") as file:
        file.write(b'{"picture": 79, "top')  # as a killed process may leave it

    status, shown = interrupt(call, journal, 12, signal.SIGINT)
    assert status == 1
    assert shown.count("Stopped: what was found is in") == 1
    assert "Traceback" not in shown

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    full = subprocess.run(
        call, cwd="/", capture_output=True, text=True, preexec_fn=small_disk, check=False
    )
    assert full.returncode == 1
    assert f"Can't write {out}" in full.stderr
    assert "the same command goes on from there" in full.stderr
    assert "Traceback" not in full.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive", "seen.mcap.journal"]

    done = run(bag, out, engine, facts=(FACT,))
    assert (done.images, done.kept) == (80, 80), "nothing is looked at twice"
    assert not journal.exists()
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / out.name
    assert run(bag, whole, engine, facts=(FACT,)).kept == 0
    assert whole.read_bytes() == out.read_bytes()
    assert len(descriptions(out)) == 80


@pytest.fixture(scope="module")
def stopped(
    tmp_path_factory: pytest.TempPathFactory, engine: SceneEngine
) -> tuple[Path, bytes, bytes]:
    """A bag, the journal of its annotation when all was looked at, and what becomes of it."""
    folder = tmp_path_factory.mktemp("stopped")
    bag, out = make_bag(folder / "drive", 3, broken={1}), folder / "seen.mcap"

    def stop(what: str, done: int, total: int) -> None:
        if what == "writing":
            raise KeyboardInterrupt

    with open_bag(bag) as reader, pytest.raises(KeyboardInterrupt):
        annotate(reader, bag, out, engine, Work(max_new_tokens=4, facts=(FACT,)), stop)
    content = journal_path(out).read_bytes()
    journal_path(out).unlink()
    run(bag, out, engine, facts=(FACT,))
    return bag, content, out.read_bytes()


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_journal_cut_at_any_byte_gives_the_same_bag(
    stopped: tuple[Path, bytes, bytes], engine: SceneEngine, data: st.DataObject
) -> None:
    bag, content, whole = stopped
    cut = data.draw(st.integers(0, len(content)), label="cut")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seen.mcap"
        journal_path(out).write_bytes(content[:cut])
        done = run(bag, out, engine, facts=(FACT,))
        assert done.kept == max(0, content[:cut].count(b"\n") - 1), "nothing is looked at twice"
        assert out.read_bytes() == whole


def test_a_journal_broken_in_the_middle_costs_one_finding(
    stopped: tuple[Path, bytes, bytes], tmp_path: Path, engine: SceneEngine
) -> None:
    bag, content, whole = stopped
    out = tmp_path / "seen.mcap"
    first, second, third, *rest = content.splitlines(keepends=True)
    journal_path(out).write_bytes(b"".join([first, second, b"\x00" * len(third) + b"\n", *rest]))
    assert run(bag, out, engine, facts=(FACT,)).kept == 5
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        ({"topics": ("/nowhere",)}, rf"no images on /nowhere: the bag has {FRONT}, {REAR}"),
        ({"topic": ODD}, f"has a topic {ODD} already"),
        ({"topic": "seen"}, "must begin with a slash"),
        ({"describe": False}, "nothing to find out"),
    ],
)
def test_impossible_work(
    tmp_path: Path, engine: SceneEngine, work: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        run(make_bag(tmp_path / "drive", 1), tmp_path / "seen.mcap", engine, **work)


def test_impossible_places(tmp_path: Path, engine: SceneEngine) -> None:
    bag = make_bag(tmp_path / "drive", 1)
    (tmp_path / "there.mcap").touch()
    for out, sentence in (
        ("there.mcap", "exists already"),
        ("seen.bag", r"must end with \.mcap"),
        ("no/seen.mcap", "There is no folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(bag, tmp_path / out, engine)


def test_a_journal_of_other_work_is_refused(tmp_path: Path, engine: SceneEngine) -> None:
    bag, out = make_bag(tmp_path / "drive", 1), tmp_path / "seen.mcap"
    with (
        Journal(journal_path(out), {"model": ["another"]}),
        pytest.raises(UserError, match="Another run is writing to"),
    ):
        run(bag, out, engine)
    with pytest.raises(
        UserError, match=r"begun with other settings \(model: \['another'\], not \['random:tiny'"
    ):
        run(bag, out, engine)


def test_options_of_the_model_must_agree(
    stopped: tuple[Path, bytes, bytes], tmp_path: Path
) -> None:
    bag, content, _ = stopped
    out = tmp_path / "seen.mcap"
    journal_path(out).write_bytes(content)
    options = {"precision": "fp32", "device": "cpu", "position_policy": "original"}
    with pytest.raises(UserError, match=r"settings \(model: \[.*\], not \[.*'original', "):
        run(bag, out, SceneEngine.load("random:tiny", **options), facts=(FACT,))
    assert journal_path(out).read_bytes() == content


def test_bags_that_cannot_be_read(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "drive", 3)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(bag.read_bytes()[:-200])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mcap").write_text("no bag")
    for path, sentence in (
        (tmp_path / "nowhere.mcap", "There is no bag"),
        (tmp_path / "empty", r"has no metadata\.yaml"),
        (cut, "can't be read as a bag .*mcap recover"),
        (tmp_path / "text.mcap", "can't be read as a bag"),
        (Path(__file__), "can't be read as a bag"),
    ):
        with pytest.raises(UserError, match=sentence), open_bag(path):
            pass


def test_the_same_image_compressed_is_left_out() -> None:
    class Made:
        connections = ()

    def connection(topic: str, kind: str) -> Any:
        return type("C", (), {"topic": topic, "msgtype": f"sensor_msgs/msg/{kind}"})()

    Made.connections = (
        connection("/a", "Image"),
        connection("/a/compressed", "CompressedImage"),
        connection("/b/compressed", "CompressedImage"),
    )
    assert [each.topic for each in image_topics(Made())] == ["/a", "/b/compressed"]
    assert [each.topic for each in image_topics(Made(), ["/a/compressed"])] == ["/a/compressed"]


def test_messages_are_built_of_what_is_given() -> None:
    store = typestore()
    empty = build(store, DESCRIPTION, {})
    assert (empty.text, empty.confidence, empty.facts, empty.camera) == ("", 0, [], "")
    assert store.serialize_cdr(empty, DESCRIPTION)
    with pytest.raises(ValueError, match="has no colour"):
        build(store, DESCRIPTION, {"colour": 1})
