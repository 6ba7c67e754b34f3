# SPDX-License-Identifier: Apache-2.0
"""Describe the images of a recorded bag, without ROS: a line for each, and one standing question.

    python3 examples/describe_bag.py drive.mcap --period 1.0 --question "is the path clear?"

To keep the descriptions in a bag beside its topics, there is `svd-vlm annotate`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from svd_vlm_ros.bags.definitions import typestore
from svd_vlm_ros.bags.recording import EverySoOften, image_topics, messages, open_bag
from svd_vlm_ros.engine import SceneEngine
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.images.messages import to_rgb


def describe(bag: Path, model: str, period: float, question: str) -> None:
    """Print what each image shows, `period` seconds of the recording apart on its topic."""
    store, choose = typestore(), EverySoOften(period)
    with open_bag(bag) as reader:
        images = image_topics(reader)
        engine = SceneEngine.load(model)
        for recorded in messages(reader, bag, images):
            if not choose.take(recorded):
                continue
            topic, kind = recorded.connection.topic, recorded.connection.msgtype
            seconds = (recorded.log_time - reader.start_time) * 1e-9
            try:
                image = to_rgb(store.deserialize_cdr(recorded.data, kind))
            except UserError as error:  # this image is damaged; the next one may not be
                print(f"{seconds:8.2f} s {topic}: unreadable, {error}")
                continue
            scene = engine.see(image)  # encoded once for all that is asked about it
            print(f"{seconds:8.2f} s {topic}: {engine.describe(scene).text}")
            if question:
                answer = engine.choose(scene, question, ["yes", "no"])
                print(f"{'':10} {question} {answer.text} ({answer.confidence:.2f})")


def main() -> None:
    """Read the command line and describe."""
    parser = argparse.ArgumentParser(description="Describe the images of a recorded bag.")
    parser.add_argument("bag", type=Path, help=".mcap, .db3 or a folder of ros2 bag record")
    parser.add_argument("--model", default="scout", help="as for svd-vlm ask")
    parser.add_argument("--period", type=float, default=1.0, help="seconds between two images")
    parser.add_argument("--question", default="", help="asked about each image; yes or no")
    given = parser.parse_args()
    try:
        describe(given.bag, given.model, given.period, given.question)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
