# SPDX-License-Identifier: Apache-2.0
"""The loaders, on small files in the official formats."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.evaluation.catalog import open_task
from svd_vlm_ros.evaluation.tasks import SHORT_ANSWER

GREY = np.full((24, 32, 3), 128, np.uint8)


def gqa_question(image: str, answer: str = "no", **changed: Any) -> dict[str, Any]:
    return {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
        "entailed": ["20602949"],
        "equivalent": ["20602949"],
        "question": "Is the sky dark?",
        "imageId": image,
        "isBalanced": True,
        "groups": {"global": None, "local": "06-sky_dark"},
        "answer": answer,
        "semanticStr": "select: sky (2486325)->verify color: dark [0]",
        "annotations": {"answer": {}, "question": {"2": "2486325"}, "fullAnswer": {}},
        "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
        "fullAnswer": "No, the sky is bright.",
        **changed,
    }


@pytest.fixture
def gqa(tmp_path: Path) -> Path:
    """A folder as GQA's downloads make it: three questions, two images."""
    questions = {
        "201307251": gqa_question("n161313"),
        "201640614": gqa_question("n235859", "girl", question="Who is wearing the dress?"),
        "202225914": gqa_question("n161313", "yes", question="Is it bright?"),
    }
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    (tmp_path / "images").mkdir()
    for name in ("n161313", "n235859"):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.jpg"), GREY)
    return tmp_path


def test_gqa_reads_questions_by_image(gqa: Path) -> None:
    task = open_task("gqa", gqa)

    assert [item.id for item in task.items] == ["201307251", "202225914", "201640614"]
    first = task.items[0]
    assert (first.image, first.question, first.truth) == ("n161313", "Is the sky dark?", ("no",))
    assert first.kind == "verify"
    assert first.suffix == "\nAnswer the question using a single word or phrase."
    assert task.score(first, "No.") == 1.0
    assert task.score(first, "yes") == 0.0
    assert task.read("n161313").shape == (24, 32, 3)
    assert task.system_prompt is not None
    assert task.system_prompt.startswith("A chat between a curious user")


def test_gqa_asks_the_balanced_questions_only(gqa: Path) -> None:
    path = gqa / "testdev_balanced_questions.json"
    questions = json.loads(path.read_text())
    questions["1"] = gqa_question("n161313", isBalanced=False)
    path.write_text(json.dumps(questions))

    assert "1" not in {item.id for item in open_task("gqa", gqa).items}


def test_missing_images_are_named_and_their_questions_left_out(gqa: Path) -> None:
    (gqa / "images" / "n161313.jpg").unlink()

    task = open_task("gqa", gqa)

    assert task.missing == ("n161313",)
    assert task.left_out == 2
    assert [item.id for item in task.items] == ["201640614"]


def test_no_image_at_all_is_refused(gqa: Path) -> None:
    for path in (gqa / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"None of the images is in .*n161313\.jpg"):
        open_task("gqa", gqa)


def test_a_question_that_stands_there_twice_is_asked_once(gqa: Path) -> None:
    path = gqa / "testdev_balanced_questions.json"
    again = json.dumps({"201307251": gqa_question("n161313")})
    path.write_text(path.read_text()[:-1] + "," + again[1:])

    task = open_task("gqa", gqa)

    assert len(task.items) == 3
    assert task.notes == ("1 repeated questions in testdev_balanced_questions.json were dropped.",)


def test_two_questions_with_one_id_are_refused(gqa: Path) -> None:
    path = gqa / "testdev_balanced_questions.json"
    other = json.dumps({"201307251": gqa_question("n161313", question="Is it green?")})
    path.write_text(path.read_text()[:-1] + "," + other[1:])

    with pytest.raises(UserError, match="two different questions with the id 201307251"):
        open_task("gqa", gqa)


@pytest.mark.parametrize("content", ["", '{"1": {"question"', '["a"]', '{"1": {"question": "?"}}'])
def test_a_broken_question_file_is_named(gqa: Path, content: str) -> None:
    (gqa / "testdev_balanced_questions.json").write_text(content)
    with pytest.raises(UserError, match=r"testdev_balanced_questions\.json"):
        open_task("gqa", gqa)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs its data set"):
        open_task("gqa")
    with pytest.raises(UserError, match="There is no folder"):
        open_task("gqa", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"testdev_balanced_questions\.json"):
        open_task("gqa", tmp_path)
    with pytest.raises(UserError, match="There is no task 'vqa'"):
        open_task("vqa", tmp_path)
    with pytest.raises(UserError, match="draws its own images"):
        open_task("scout", tmp_path)


def textvqa_row(question_id: int, image: str, question: str) -> dict[str, Any]:
    return {
        "question_id": question_id,
        "question": question,
        "image_id": image,
        "image_classes": ["Camera"],
        "flickr_300k_url": "https://example.org/0.jpg",
        "image_width": 1024,
        "image_height": 664,
        "answers": ["nous les gosses", *["dakota"] * 7, "clos culombu", "dakota digital"],
        "question_tokens": question.split(),
        "set_name": "val",
    }


@pytest.fixture
def textvqa(tmp_path: Path) -> Path:
    """A folder as TextVQA's downloads make it: three questions, two images."""
    rows = [
        textvqa_row(34602, "003a8ae2ef43b901", "what is the brand of this camera?"),
        textvqa_row(34603, "4cf91004a12af2d2", "what does the small white text spell?"),
        textvqa_row(34604, "003a8ae2ef43b901", "is it red?"),
    ]
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(
        json.dumps({"dataset_type": "val", "dataset_name": "textvqa", "data": rows})
    )
    ocr = [
        {"image_id": "003a8ae2ef43b901", "ocr_tokens": ["DAKOTA", "DIGITAL"], "ocr_info": []},
        {"image_id": "4cf91004a12af2d2", "ocr_tokens": [], "ocr_info": []},
    ]
    (tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json").write_text(json.dumps({"data": ocr}))
    (tmp_path / "train_images").mkdir()
    for name in ("003a8ae2ef43b901", "4cf91004a12af2d2"):
        cv2.imwrite(str(tmp_path / "train_images" / f"{name}.jpg"), GREY)
    return tmp_path


def test_textvqa_writes_ocr_tokens_as_llava_does(textvqa: Path) -> None:
    task = open_task("textvqa", textvqa)

    first = task.items[0]
    assert first.id == "34602"
    assert first.question + first.suffix == (
        "What is the brand of this camera?\n"
        "Reference OCR token: DAKOTA, DIGITAL\n"
        "Answer the question using a single word or phrase."
    )
    assert "with OCR tokens" in task.protocol
    assert task.score(first, "Dakota.") == 1.0
    assert task.score(first, "dakota digital") == pytest.approx(0.3)


def test_textvqa_without_ocr_tokens_is_another_protocol(textvqa: Path) -> None:
    task = open_task("textvqa", textvqa, ocr=False)

    assert {item.suffix for item in task.items} == {SHORT_ANSWER}
    assert "without OCR tokens" in task.protocol
    assert task.fingerprint != open_task("textvqa", textvqa).fingerprint


def test_llavas_own_prompt_file_goes_first(textvqa: Path) -> None:
    text = (
        "{}\nReference OCR token: FROM, LLAVA\nAnswer the question using a single word or phrase."
    )
    rows = [
        ("003a8ae2ef43b901", "Is it red?"),
        ("003a8ae2ef43b901", "What is the brand of this camera?"),
        ("4cf91004a12af2d2", "What does the small white text spell?"),
    ]
    (textvqa / "llava_textvqa_val_v051_ocr.jsonl").write_text(
        "".join(
            json.dumps({"question_id": p, "image": f"{p}.jpg", "text": text.format(q)}) + "\n"
            for p, q in rows
        )
    )

    task = open_task("textvqa", textvqa)

    prompts = {item.question + item.suffix for item in task.items}
    assert prompts == {text.format(question) for _, question in rows}
    assert "llava_textvqa_val_v051_ocr.jsonl" in task.protocol


def test_without_the_ocr_file_the_way_out_is_named(textvqa: Path) -> None:
    (textvqa / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    with pytest.raises(UserError, match="--no-ocr"):
        open_task("textvqa", textvqa)


def test_a_question_without_ten_answers_is_refused(textvqa: Path) -> None:
    path = textvqa / "TextVQA_0.5.1_val.json"
    content = json.loads(path.read_text())
    content["data"][1]["answers"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"34603 .* has 9 answers instead of 10"):
        open_task("textvqa", textvqa)


def test_the_first_images_with_all_their_questions(textvqa: Path) -> None:
    assert {i.id for i in open_task("textvqa", textvqa, images=1).items} == {"34602", "34604"}


def test_scout_asks_held_out_scenes() -> None:
    task = open_task("scout", images=3)

    images = task.images()
    assert len(images) == 3
    assert {len({i.kind for i in items}) - len(items) for items in images.values()} == {0}
    item = task.items[0]
    assert task.score(item, f" {item.truth[0].upper()} ") == 1.0
    assert task.score(item, "something else") == 0.0
    assert task.read(item.image).shape == (336, 336, 3)
    more = open_task("scout", images=4)
    assert more.items[: len(task.items)] == task.items
    assert more.fingerprint == task.fingerprint
