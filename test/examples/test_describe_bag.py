# SPDX-License-Identifier: Apache-2.0
"""`describe_bag.py` on a bag of scout's scenes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rosbags", reason="needs rosbags")
from robot import PATIENCE
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.render import render

TOPIC = "/front/image/compressed"
QUESTION = "is the path clear?"
TIMES = (8.0, 8.4, 18.0)  # s of the drive and of the recording


def record(folder: Path) -> Path:
    """A bag of a JPEG for each of TIMES, and a broken one at its end."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types, kind = store.types, "sensor_msgs/msg/CompressedImage"
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, kind, typestore=store)
        for seconds in (*TIMES, 30.0):
            image = render(drive(seconds, 0))
            jpeg = cv2.imencode(".jpg", image[..., ::-1])[1].reshape(-1)
            jpeg = jpeg[: len(jpeg) // 2] if seconds == 30.0 else jpeg
            stamp = types["builtin_interfaces/msg/Time"](int(seconds), 0)
            header = types["std_msgs/msg/Header"](stamp, "front")
            data = store.serialize_cdr(types[kind](header, "jpeg", jpeg), kind)
            writer.write(connection, int(seconds * 1e9), data)
    return folder


def test_a_line_for_each_image(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    bag = record(tmp_path / "drive")
    asked = start("describe_bag.py", str(bag), "--question", QUESTION)
    out, err = asked.communicate(timeout=PATIENCE)
    assert asked.returncode == 0, err
    lines = out.splitlines()
    assert [line.split(" s ")[0].strip() for line in lines[::2]] == ["0.00", "10.00", "22.00"]
    ground = drive(TIMES[0]).ground
    assert f"{TOPIC}: {ground} under " in lines[0], "the sentence of the model that loads by itself"
    assert lines[1].split()[:4] == QUESTION.split()
    assert lines[1].split()[4] in ("yes", "no")
    assert "unreadable" in lines[4]
    assert len(lines) == 5


def test_a_bag_that_is_none(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    asked = start("describe_bag.py", str(tmp_path / "no.mcap"))
    _, err = asked.communicate(timeout=PATIENCE)
    assert asked.returncode == 1
    assert "There is no bag" in err
    assert "Traceback" not in err
