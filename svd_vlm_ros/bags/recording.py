# SPDX-License-Identifier: Apache-2.0
"""A recorded bag: which topics carry images, and the images one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from svd_vlm_ros.errors import UserError

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Recorded:
    """One message of a bag: `log_time` in nanoseconds, `data` as CDR."""

    connection: Connection
    log_time: int
    data: bytes


@contextmanager
def open_bag(path: Path) -> Iterator[Reader]:
    """Open a bag: an .mcap or .db3 file, or a folder with metadata.yaml. Raises `UserError`."""
    if not path.exists():
        raise UserError(f"There is no bag {path}: check the path.")
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise UserError(
            f"{path} has no metadata.yaml: name a folder that ros2 bag record has made, or the "
            ".mcap or .db3 file in it."
        )
    try:
        reader = Reader(path)
        reader.open()
    except Exception as error:  # what a broken file makes the libraries raise is not in a list
        raise UserError(
            f"{path} can't be read as a bag ({_reason(error)}): it needs an .mcap or .db3 file, or "
            "a folder with metadata.yaml; repair a recording that was cut with 'ros2 bag reindex' "
            "or 'mcap recover'."
        ) from error
    try:
        yield reader
    finally:
        reader.close()


def image_topics(reader: Reader, wanted: Sequence[str] = ()) -> list[Connection]:
    """The connections that carry images: of the `wanted` topics, else of all.

    Of all, `/front/image/compressed` is left out beside a raw `/front/image`: it is the same image.
    Raises `UserError` if there are none.
    """
    found = [each for each in reader.connections if each.msgtype in (RAW, COMPRESSED)]
    topics = sorted({each.topic for each in found})
    for topic in wanted:
        if topic not in topics:
            raise UserError(f"There are no images on {topic}: the bag has {_listed(topics)}.")
    if wanted:
        found = [each for each in found if each.topic in wanted]
    else:
        raw = {each.topic for each in found if each.msgtype == RAW}
        found = [
            each
            for each in found
            if each.msgtype == RAW or each.topic.rpartition("/")[0] not in raw
        ]
    if not found:
        others = sorted({each.topic for each in reader.connections})
        raise UserError(f"There are no images in this bag: its topics are {_listed(others)}.")
    return found


def messages(reader: Reader, path: Path, connections: Sequence[Connection]) -> Iterator[Recorded]:
    """The messages of these connections in the bag's order. Raises `UserError` on a broken bag."""
    source = reader.messages(connections)
    while True:
        try:
            connection, log_time, data = next(source)
        except StopIteration:
            return
        except Exception as error:
            raise UserError(
                f"{path} can't be read to its end ({_reason(error)}): repair it with "
                "'mcap recover' or 'ros2 bag reindex'."
            ) from error
        yield Recorded(connection, log_time, data)


class EverySoOften:
    """Chooses images that lie `period` seconds apart on their topic, 0: all of them."""

    def __init__(self, period: float) -> None:
        self._period = round(period * NANOSECONDS)
        self._last: dict[str, int] = {}

    def take(self, recorded: Recorded) -> bool:
        """Whether to look at this image. Call it once for each, in order."""
        topic, last = recorded.connection.topic, self._last.get(recorded.connection.topic)
        if last is not None and last <= recorded.log_time < last + self._period:
            return False
        self._last[topic] = recorded.log_time
        return True


def fingerprint(reader: Reader) -> dict[str, Any]:
    """What tells this bag from another one: its times, and how many messages each topic has."""
    counts: dict[str, int] = {}
    for each in reader.connections:
        counts[f"{each.topic} {each.msgtype}"] = each.msgcount
    return {"begin": reader.start_time, "end": reader.end_time, "messages": counts}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "none"


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
