# SPDX-License-Identifier: Apache-2.0
"""A recorded bag gets descriptions: the engine looks at its images, and all goes into a new bag.

    with open_bag(path) as reader:
        annotate(reader, path, out, engine, Work(prompt=None, facts=(fact,)))

The work can be stopped at any time and goes on from there; one run and many give the same bytes.
For that the times in `stats` are 0: they would differ from run to run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from svd_vlm_ros import __version__
from svd_vlm_ros.bags.definitions import DESCRIPTION, build, typestore
from svd_vlm_ros.bags.recording import (
    EverySoOften,
    Recorded,
    fingerprint,
    image_topics,
    messages,
)
from svd_vlm_ros.bags.writing import write_bag
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.facts import Fact, FactTracker, Observation
from svd_vlm_ros.images.disk import check_writable
from svd_vlm_ros.images.messages import MAX_PIXELS, to_rgb
from svd_vlm_ros.journal import Journal, read_records

if TYPE_CHECKING:
    from svd_vlm_ros.engine import SceneEngine

TOPIC = "/scene_description"


@dataclass(frozen=True)
class Work:
    """What to find out.

    Attributes:
        prompt: what a description is asked with; None: the model's own prompt.
        describe: False: only the facts.
        facts: standing questions for every image.
        fact_frames: images in a row after which another answer becomes a fact's value.
        topics: the images' topics; (): all.
        period: seconds of the recording between two images of a topic; 0: every image.
        topic: the topic of the descriptions.
        max_new_tokens: longest description.
        compress: write the bag with compressed chunks (zstd).
    """

    prompt: str | None = None
    describe: bool = True
    facts: tuple[Fact, ...] = ()
    fact_frames: int = 2
    topics: tuple[str, ...] = ()
    period: float = 0.0
    topic: str = TOPIC
    max_new_tokens: int = 128
    compress: bool = False


@dataclass(frozen=True)
class Done:
    """The result: images looked at, those found by an earlier run, those refused and why."""

    images: int
    kept: int
    unreadable: int
    topics: tuple[str, ...]
    reasons: dict[str, str]  # topic -> why its first one was refused


OnStep = Callable[[str, int, int], object]
"""(what is done, steps done, steps in all); what is "looking" or "writing"."""


def annotate(
    reader: Reader,
    source: Path,
    out: Path,
    engine: SceneEngine,
    work: Work,
    on_step: OnStep = lambda what, done, total: None,
) -> Done:
    """Describe the bag's images and write all of it to `out`, an .mcap file.

    Findings are kept in `<out>.journal` until `out` is whole, and taken from there by a later run.

    Raises:
        UserError: the bag or the options can't be used, `out` exists, or the disk is full.
    """
    check_out(out, reader, work)
    images = image_topics(reader, work.topics)
    store = typestore()
    with Journal(journal_path(out), _what(reader, engine, work, images)) as journal:
        found = _findings(journal_path(out))
        kept = len(found)
        total = sum(each.msgcount for each in images)
        choose, looked = EverySoOften(work.period), 0
        for number, recorded in enumerate(messages(reader, source, images)):
            on_step("looking", number, total)
            if choose.take(recorded):
                looked += 1
                if number not in found:
                    found[number] = _look(engine, store, recorded, work)
                    journal.write([{"picture": number, **found[number]}])
        on_step("looking", total, total)
        describe = _Descriptions(store, engine, work, images, found)
        steps = iter(range(1, reader.message_count + 1))
        write_bag(
            reader,
            source,
            out,
            store,
            work.topic,
            describe,
            compress=work.compress,
            on_message=lambda: on_step("writing", next(steps), reader.message_count),
        )
        journal.delete()
    refused = {number: each for number, each in found.items() if "refused" in each}
    reasons: dict[str, str] = {}
    for each in refused.values():
        reasons.setdefault(each["topic"], each["refused"])
    names = tuple(sorted({each.topic for each in images}))
    return Done(looked, kept, len(refused), names, reasons)


def journal_path(out: Path) -> Path:
    """The file of the findings while the work is under way."""
    return out.with_name(f"{out.name}.journal")


def check_out(out: Path, reader: Reader, work: Work) -> None:
    """Raise `UserError` if the result could not be written, before hours of work."""
    if out.suffix != ".mcap":
        raise UserError(f"--out {out} must end with .mcap: that is what is written.")
    if out.exists():
        raise UserError(f"{out} exists already: remove it or choose another name.")
    if not out.parent.is_dir():
        raise UserError(f"There is no folder {out.parent}: make it, or choose another place.")
    check_writable(journal_path(out))
    if not work.topic.startswith("/"):
        raise UserError(f"The topic '{work.topic}' must begin with a slash.")
    if work.topic in {each.topic for each in reader.connections}:
        raise UserError(
            f"The bag has a topic {work.topic} already: choose another one with --topic-out."
        )
    if not work.describe and not work.facts:
        raise UserError("There is nothing to find out: ask for descriptions or give --questions.")


def _what(
    reader: Reader, engine: SceneEngine, work: Work, images: Sequence[Connection]
) -> dict[str, Any]:
    """What the findings depend on."""
    info = engine.info
    # Left out as long as nothing is set, so that journals from before there were any go on.
    options = [] if info.options == type(info.options)() else [*dataclasses.astuple(info.options)]
    options += [] if info.runtime == "torch" else [info.runtime]
    return {
        "version": __version__,
        "bag": fingerprint(reader),
        "topics": sorted({each.topic for each in images}),
        "model": [info.model, info.precision, info.dtype, info.aspect, *options],
        "selector": [info.selector, info.visual_tokens, info.token_cap],
        "prompt": [work.describe, work.prompt, work.max_new_tokens],
        "questions": [dataclasses.asdict(fact) for fact in work.facts],
        "period": work.period,
    }


def _findings(path: Path) -> dict[int, dict[str, Any]]:
    """What a journal holds, by the numbers of the images."""
    records = (record for _, record in read_records(path) if record and "picture" in record)
    return {record.pop("picture"): record for record in records}


def _look(engine: SceneEngine, store: Any, recorded: Recorded, work: Work) -> dict[str, Any]:
    """The engine's answers about one image, or why it can't be read, as plain values."""
    topic = recorded.connection.topic
    try:
        message = store.deserialize_cdr(recorded.data, recorded.connection.msgtype)
    except Exception as error:
        return {"topic": topic, "refused": f"its message is broken ({type(error).__name__})"}
    try:
        scene = engine.see(to_rgb(message, MAX_PIXELS))
    except UserError as error:
        return {"topic": topic, "refused": str(error)}
    found: dict[str, Any] = {
        "topic": topic,
        "kept": scene.tokens_kept,
        "total": scene.tokens_total,
        "facts": [
            list(engine.choose(scene, fact.question, fact.choices).probabilities)
            for fact in work.facts
        ],
    }
    if work.describe:
        answer = engine.describe(scene, work.prompt, max_new_tokens=work.max_new_tokens)
        found |= {
            "text": answer.text,
            "confidence": answer.confidence,
            "prompt_tokens": answer.prompt_tokens,
            "answer_tokens": answer.answer_tokens,
        }
    return found


class _Descriptions:
    """The descriptions as CDR, from the findings alone. Call it with all messages in order."""

    def __init__(
        self,
        store: Any,
        engine: SceneEngine,
        work: Work,
        images: Sequence[Connection],
        found: dict[int, dict[str, Any]],
    ) -> None:
        self._store, self._info, self._work, self._found = store, engine.info, work, found
        self._images = {each.id for each in images}
        self._trackers: dict[str, FactTracker] = {}
        self._number = -1

    def __call__(self, recorded: Recorded) -> bytes | None:
        """The description of this message; None if it is not an image that was looked at."""
        if recorded.connection.id not in self._images:
            return None
        self._number += 1
        found = self._found.get(self._number)
        if found is None or "refused" in found:
            return None
        frame = self._store.deserialize_cdr(recorded.data, recorded.connection.msgtype)
        topic = recorded.connection.topic
        tracker = self._trackers.setdefault(topic, FactTracker(self._work.fact_frames))
        observed = [
            tracker.update(fact, probabilities)
            for fact, probabilities in zip(self._work.facts, found["facts"], strict=True)
        ]
        message = build(
            self._store,
            DESCRIPTION,
            {
                "header": frame.header,
                "camera": topic,
                "text": found.get("text"),
                "confidence": found.get("confidence"),
                "facts": [_fact(each) for each in observed],
                "stats": {
                    "model": self._info.model,
                    "precision": self._info.precision,
                    "selector": self._info.selector,
                    "visual_tokens_kept": found["kept"],
                    "visual_tokens_total": found["total"],
                    "prompt_tokens": found.get("prompt_tokens"),
                    "answer_tokens": found.get("answer_tokens"),
                },
            },
        )
        return bytes(self._store.serialize_cdr(message, DESCRIPTION))


def _fact(observed: Observation) -> dict[str, Any]:
    return {
        "name": observed.fact.name,
        "question": observed.fact.question,
        "choices": list(observed.fact.choices),
        "probabilities": list(observed.probabilities),
        "value": observed.value,
        "changed": observed.changed,
    }
