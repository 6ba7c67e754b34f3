# SPDX-License-Identifier: Apache-2.0
"""A bag of 300 images is annotated in one run, and in one that is killed half-way.

    python benchmark/annotate.py --frames 300        # or: make annotate

Both files must be the same to the byte, read back, and have a description for each image with the
image's own stamp. Exit status 1 if not. The images are a drive through scout's world.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from svd_vlm_ros.bags.annotate import TOPIC, journal_path
from svd_vlm_ros.bags.definitions import DESCRIPTION, typestore
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.render import render

CAMERA = "/front/image_raw"
IMAGE = "sensor_msgs/msg/Image"
RATE = 10  # images a second
QUESTION = "path=is the path clear? [yes, no]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--model", default="scout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="annotate-") as name:
        folder = Path(name)
        bag = record(folder / "drive", options.frames)
        whole, parts = folder / "whole" / "seen.mcap", folder / "parts" / "seen.mcap"
        for out in (whole, parts):
            out.parent.mkdir()
        begun = time.monotonic()
        annotate(bag, whole, options.model)
        seconds = time.monotonic() - begun
        killed_at = kill_half_way(bag, parts, options)
        annotate(bag, parts, options.model)
        same = whole.read_bytes() == parts.read_bytes()
        stamps, described = stamps_of(bag, CAMERA, IMAGE), stamps_of(whole, TOPIC, DESCRIPTION)
    print(
        f"{options.frames} images in {seconds:.1f} s; killed after {killed_at} of them and gone "
        f"on with: {'the same file' if same else 'ANOTHER FILE'}; {len(described)} descriptions, "
        f"{'each' if described == stamps else 'NOT EACH'} with the stamp of its image"
    )
    sys.exit(0 if same and described == stamps else 1)


def record(folder: Path, frames: int) -> Path:
    """A bag of a drive, as folder/folder.mcap."""
    store = typestore()
    types = store.types
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(CAMERA, IMAGE, typestore=store)
        for number in range(frames):
            at = 10**18 + number * 10**9 // RATE
            pixels = render(drive(number / RATE))
            height, width = pixels.shape[:2]
            header = types["std_msgs/msg/Header"](
                types["builtin_interfaces/msg/Time"](*divmod(at - 3_000_000, 10**9)), "front"
            )
            message = types[IMAGE](header, height, width, "rgb8", 0, 3 * width, pixels.reshape(-1))
            writer.write(connection, at, store.serialize_cdr(message, IMAGE))
    return folder / f"{folder.name}.mcap"


def command(bag: Path, out: Path, model: str) -> list[str]:
    program = [sys.executable, "-m", "svd_vlm_ros.cli.main", "annotate", str(bag)]
    return [*program, "--out", str(out), "--model", model, "-q", QUESTION]


def annotate(bag: Path, out: Path, model: str) -> None:
    subprocess.run(command(bag, out, model), check=True, cwd="/", stdout=subprocess.DEVNULL)


def kill_half_way(bag: Path, out: Path, options: argparse.Namespace) -> int:
    """Start it, kill it when half of the images are done; how many were."""
    process = subprocess.Popen(command(bag, out, options.model), cwd="/")
    journal = journal_path(out)
    while not journal.exists() or journal.read_bytes().count(b"\n") <= options.frames // 2:
        if process.poll() is not None:
            sys.exit("it ended before it could be killed")
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return journal.read_bytes().count(b"\n") - 1


def stamps_of(bag: Path, topic: str, kind: str) -> list[tuple[int, int]]:
    store = typestore()
    with Reader(bag) as reader:
        connections = [each for each in reader.connections if each.topic == topic]
        found = [
            store.deserialize_cdr(data, kind).header.stamp
            for _, _, data in reader.messages(connections)
        ]
    return [(stamp.sec, stamp.nanosec) for stamp in found]


if __name__ == "__main__":
    main()
