# SPDX-License-Identifier: Apache-2.0
"""TextVQA: `TextVQA_0.5.1_val.json`, its images, and the OCR tokens of its prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.scoring import ANNOTATORS, vqa_accuracy
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

QUESTIONS = ("TextVQA_0.5.1_val.json",)
IMAGES = ("train_images", "images")
LLAVA_PROMPTS = "llava_textvqa_val_v051_ocr.jsonl"
ROSETTA = "TextVQA_Rosetta_OCR_v0.2_val.json"

_PROTOCOL = (
    "TextVQA 0.5.1 validation, {ocr}; LLaVA-1.5's system prompt, with "
    '"Answer the question using a single word or phrase." behind each question; greedy; VQA '
    "accuracy over ten annotators with EvalAI's normalisation."
)

Prompted = Callable[[str, str], tuple[str, str]]
"""From an image's key and a question to the question as it is asked and what stands behind it."""


def textvqa_task(data: Path, *, ocr: bool) -> Task:
    """Read TextVQA from a folder with the annotations and `train_images/`.

    With `ocr` the prompt names the OCR tokens of the image, as LLaVA-1.5's evaluation does: from
    LLaVA's own prompt file if it is there, else from the data set's Rosetta tokens.

    Raises:
        UserError: a file is missing, cut or in another format; two questions have one id.
    """
    path = find_file(data, QUESTIONS, "TextVQA's annotation file")
    folder = find_folder(data, IMAGES, "TextVQA's images")
    content = read_json_file(path)
    rows = content.get("data") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise UserError(f"{path} is not TextVQA's annotation file: it should have a list 'data'.")
    prompted: Prompted = _plain
    paths, tokens = [path], "without OCR tokens in the prompt"
    if ocr:
        prompted, source = _with_ocr(data)
        paths.append(source)
        tokens = f"with OCR tokens in the prompt ({source.name})"
    items, dropped = without_duplicates([_item(path, row, prompted) for row in rows], path)
    there, missing = split_missing(items, folder)
    return Task(
        name="textvqa",
        items=tuple(there),
        read=lambda key: read_image(folder / f"{key}.jpg"),
        score=lambda item, answer: vqa_accuracy(answer, item.truth),
        protocol=_PROTOCOL.format(ocr=tokens),
        system_prompt=LLAVA_SYSTEM_PROMPT,
        fingerprint=fingerprint(*paths),
        missing=missing,
        left_out=len(items) - len(there),
        notes=(f"{dropped} repeated questions in {path.name} were dropped.",) if dropped else (),
    )


def _item(path: Path, row: Any, prompted: Prompted) -> Item:
    try:
        answers = tuple(str(answer) for answer in row["answers"])
        image, question = str(row["image_id"]), str(row["question"])
        question, suffix = prompted(image, question.strip())
        item = Item(
            id=str(row["question_id"]),
            image=image,
            question=question,
            truth=answers,
            kind="all",
            suffix=suffix,
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"A row of {path} lacks {error}: is it TextVQA's annotation file?"
        ) from error
    if len(answers) != ANNOTATORS:
        raise UserError(
            f"The question {item.id} in {path} has {len(answers)} answers instead of {ANNOTATORS}: "
            "fetch it again (the test set has none)."
        )
    return item


def _plain(image: str, question: str) -> tuple[str, str]:
    # LLaVA's prompts begin with a capital, the data set's questions do not.
    return question[:1].upper() + question[1:], SHORT_ANSWER


def _with_ocr(data: Path) -> tuple[Prompted, Path]:
    if (data / LLAVA_PROMPTS).is_file():
        return _from_prompts(data / LLAVA_PROMPTS), data / LLAVA_PROMPTS
    if (data / ROSETTA).is_file():
        return _from_rosetta(data / ROSETTA), data / ROSETTA
    raise UserError(
        f"The OCR tokens of TextVQA are not in {data}: put {LLAVA_PROMPTS} or {ROSETTA} there, or "
        "ask without them by --no-ocr (the full model is near 45 % then, not 58 %)."
    )


def _from_prompts(path: Path) -> Prompted:
    """The prompts that LLaVA-1.5 is evaluated with: JSON lines with `question_id`, `text`."""
    texts: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            texts.setdefault(str(row["question_id"]), []).append(str(row["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"Line {number} of {path} is broken: fetch it again.") from error

    def prompted(image: str, question: str) -> tuple[str, str]:
        begins = f"{question}\n".lower()
        for text in texts.get(image, []):
            if text.lower().startswith(begins):
                return text[: len(question)], text[len(question) :]
        raise UserError(
            f"{path} has no prompt for the image {image} and {question!r}: do the files "
            "belong together?"
        )

    return prompted


def _from_rosetta(path: Path) -> Prompted:
    """The data set's own OCR tokens: `data` with `image_id` and `ocr_tokens`."""
    try:
        rows = read_json_file(path)["data"]
        tokens = {str(row["image_id"]): [str(t) for t in row["ocr_tokens"]] for row in rows}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not TextVQA's OCR file: it lacks {error}.") from error

    def prompted(image: str, question: str) -> tuple[str, str]:
        question, short = _plain(image, question)
        return question, f"\nReference OCR token: {', '.join(tokens.get(image, []))}{short}"

    return prompted
