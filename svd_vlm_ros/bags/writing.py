# SPDX-License-Identifier: Apache-2.0
"""The annotated bag: every message of the recorded one, each description right after its image.

It is written beside its place and moved there when it is whole. The same findings give the same
bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from svd_vlm_ros.bags.definitions import DESCRIPTION
from svd_vlm_ros.bags.recording import Recorded, messages
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.journal import cannot_write

Describe = Callable[[Recorded], "bytes | None"]
"""The description's CDR of a message that is an image with one, else None."""

# Of the rosbag2 metadata: ROS 2 Iron and later, and the form of QoS that Humble reads too.
VERSION: Literal[8] = 8
_FOREVER = QosTime(0, 0)  # not specified
# As the node publishes: reliable, volatile, the last ten.
_QOS = Qos(
    history=QosHistory.KEEP_LAST,
    depth=10,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.VOLATILE,
    deadline=_FOREVER,
    lifespan=_FOREVER,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=_FOREVER,
    avoid_ros_namespace_conventions=False,
)


def write_bag(
    reader: Reader,
    source: Path,
    out: Path,
    store: Typestore,
    topic: str,
    describe: Describe,
    *,
    compress: bool,
    on_message: Callable[[], object],
) -> None:
    """Write the bag with descriptions to `out`, an .mcap file.

    Raises:
        UserError: the disk is full, or a message type of the bag has no definition.
    """
    folder = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(folder, ignore_errors=True)
    # The file's name stands in its own metadata: rosbags names it as its folder.
    writer = Writer(folder / out.stem, version=VERSION, storage_plugin=StoragePlugin.MCAP)
    if compress:
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    try:
        with writer:
            copies = {each.id: _copy(writer, each, store) for each in reader.connections}
            described = writer.add_connection(
                topic, DESCRIPTION, typestore=store, offered_qos_profiles=[_QOS]
            )
            for recorded in messages(reader, source, reader.connections):
                writer.write(copies[recorded.connection.id], recorded.log_time, recorded.data)
                description = describe(recorded)
                if description is not None:
                    writer.write(described, recorded.log_time, description)
                on_message()
        (folder / out.stem / f"{out.stem}.mcap").replace(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(writer: Writer, each: Connection, store: Typestore) -> Connection:
    """The same connection in the new bag, its definition from the old one if that has it."""
    given: dict[str, Any] = {"typestore": store}
    if each.msgdef.data and each.digest:
        given = {"msgdef": each.msgdef.data, "rihs01": each.digest}
    elif each.msgdef.data:
        given = {"msgdef": each.msgdef.data, "rihs01": _hash(store, each.msgtype)}
    elif each.msgtype not in store.fielddefs:
        raise UserError(
            f"The bag has no definition of {each.msgtype} ({each.topic}): record it with ROS 2 "
            "Iron or later, or leave the topic out with 'ros2 bag convert'."
        )
    assert isinstance(each.ext, ConnectionExtRosbag2)
    return writer.add_connection(
        each.topic,
        each.msgtype,
        serialization_format=each.ext.serialization_format,
        offered_qos_profiles=each.ext.offered_qos_profiles,
        **given,
    )


def _hash(store: Typestore, name: str) -> str:
    return store.hash_rihs01(name) if name in store.fielddefs else "RIHS01_" + 64 * "0"
