# SPDX-License-Identifier: Apache-2.0
"""GQA: `testdev_balanced_questions.json` and its images, as they are downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.scoring import gqa_score
from svd_vlm_ros.evaluation.tasks import (
    LLAVA_SYSTEM_PROMPT,
    SHORT_ANSWER,
    Item,
    Task,
    find_file,
    find_folder,
    fingerprint,
    read_json_file,
    split_missing,
    without_duplicates,
)
from svd_vlm_ros.images.disk import read_image

QUESTIONS = (
    "testdev_balanced_questions.json",
    "questions/testdev_balanced_questions.json",
    "questions1.2/testdev_balanced_questions.json",
)
IMAGES = ("images", "allImages/images")

PROTOCOL = (
    "GQA test-dev, balanced questions; LLaVA-1.5's system prompt, with "
    '"Answer the question using a single word or phrase." behind each question; greedy; exact '
    "match after capitals and full stops at the end are dropped."
)


def gqa_task(data: Path) -> Task:
    """Read GQA from a folder with the questions and `images/`.

    Raises:
        UserError: a file is missing, cut or in another format; two questions have one id.
    """
    path = find_file(data, QUESTIONS, "GQA's question file")
    folder = find_folder(data, IMAGES, "GQA's images")
    # As pairs: a dict would silently keep the last of two questions with one id.
    content = read_json_file(path, object_pairs_hook=list)
    if not isinstance(content, list) or not all(isinstance(pair, tuple) for pair in content):
        raise UserError(f"{path} is not GQA's question file: it should map ids to questions.")
    questions = [(str(key), _question(path, key, value)) for key, value in content]
    items, dropped = without_duplicates([item for _, item in questions if item is not None], path)
    there, missing = split_missing(items, folder)
    return Task(
        name="gqa",
        items=tuple(there),
        read=lambda key: read_image(folder / f"{key}.jpg"),
        score=lambda item, answer: gqa_score(answer, item.truth[0]),
        protocol=PROTOCOL,
        system_prompt=LLAVA_SYSTEM_PROMPT,
        fingerprint=fingerprint(path),
        missing=missing,
        left_out=len(items) - len(there),
        notes=(f"{dropped} repeated questions in {path.name} were dropped.",) if dropped else (),
    )


def _question(path: Path, key: Any, value: Any) -> Item | None:
    """One question of the file; None if it is not of the balanced set, which alone is scored."""
    fields = dict(value) if isinstance(value, list) else {}
    try:
        if not fields.get("isBalanced", True):
            return None
        types = dict(fields.get("types") or {})
        return Item(
            id=str(key),
            image=str(fields["imageId"]),
            question=str(fields["question"]),
            truth=(str(fields["answer"]),),
            kind=str(types.get("structural", "all")),
            suffix=SHORT_ANSWER,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The question {key} in {path} lacks {error}: it should have imageId, question, answer."
        ) from error
