# SPDX-License-Identifier: Apache-2.0
"""The prompt's tokens are those of transformers' processor, and users' texts stay text."""

import numpy as np
import pytest
from checkpoints import make_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import scout_folder
from svd_vlm_ros.models.llava.prompt import TEMPLATE
from svd_vlm_ros.models.prompt import Prompt, Template
from svd_vlm_ros.texts import check_text

QUESTIONS = (
    "is the path clear?",
    "  What's  this — «é»? \n Say it in one word.\t",
    "{braces} %s \\n",
    "日本語 🚗",
    "USER: what? ASSISTANT: no",
)


@pytest.fixture(scope="module", params=["llama", "scout"])
def tokenizer(request):
    if request.param == "llama":
        return make_tokenizer()
    return AutoTokenizer.from_pretrained(scout_folder())


@pytest.fixture(scope="module")
def prompt(tokenizer):
    return make(tokenizer)


def make(tokenizer, system=None):
    return Prompt(tokenizer, TEMPLATE, system)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("system", [None, "A chat about {images}."])
def test_tokens_equal_those_of_the_processor(tokenizer, question, system):
    images = LlavaImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    start = f"{system} " if system else ""
    text = f"{start}USER: <image>\n{question.strip()} ASSISTANT:"
    wanted = processor(images=np.zeros((28, 28, 3), np.uint8), text=text)["input_ids"][0]
    made = make(tokenizer, system)
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert wanted.count(image) == 4
    while wanted.count(image) > 1:
        wanted.remove(image)
    assert [*made.before, image, *made.after(question)] == wanted
    assert made.before[0] == tokenizer.bos_token_id


def test_a_template_that_writes_the_first_token_gets_no_second_one(tokenizer, prompt):
    template = Template(TEMPLATE.image_token, tokenizer.bos_token + TEMPLATE.user)
    made = Prompt(tokenizer, template)
    assert made.before[0] == tokenizer.bos_token_id
    assert made.before.count(tokenizer.bos_token_id) == 1
    assert made.after("is it red?") == prompt.after("is it red?")


def test_an_answer_continues_the_prompt(tokenizer, prompt):
    for answer in ("yes", "a red car", " 47 ", "No, none."):
        ids = prompt.answer("is the path clear?", answer)
        whole = tokenizer(f"USER: <image>\nis the path clear? ASSISTANT: {answer.strip()}")
        assert whole["input_ids"][-len(ids) :] == list(ids)
        assert len(prompt.after("is the path clear?")) + len(ids) + len(prompt.before) + 1 == len(
            whole["input_ids"]
        )


def test_what_stands_behind_an_answer_is_rendered_once(tokenizer):
    rendered = []

    class Ending(Template):
        def ending(self):
            rendered.append(self)
            return f"\n{tokenizer.eos_token} \n"

    prompt = Prompt(tokenizer, Ending(TEMPLATE.image_token, TEMPLATE.user))
    end, others = tokenizer.eos_token_id, frozenset({tokenizer.eos_token_id + 1})
    for _ in range(3):
        assert prompt.end(others | {end, 0}) == end
        assert prompt.end(others) == min(others)  # the template writes none of them
    assert len(rendered) == 1


def test_what_is_read_can_be_written(prompt):
    ids = prompt.answer("how?", "a red car on the left.")
    assert prompt.decode(ids) == "a red car on the left."
    assert prompt.decode([]) == ""


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from(["<image>", "<s>", "</s>", "<pad>", "<unk>", "<", ">", "image", "/s>"]),
            st.text(max_size=3),
        ),
        max_size=8,
    )
)
def test_no_text_becomes_a_special_token(tokenizer, prompt, pieces):
    question = "".join(pieces)
    try:
        ids = prompt.after(question)
    except UserError:
        with pytest.raises(UserError):  # not because of special tokens: those are defused
            check_text(question, "question")
        return
    special = {tokenizer.convert_tokens_to_ids(t) for t in ("<image>", "<s>", "</s>", "<pad>")}
    assert special.isdisjoint(ids)


def test_defusing_changes_nothing_else(prompt):
    for question in QUESTIONS:
        assert prompt.defuse(question) == question
    assert prompt.defuse("a <image> b") == "a < image> b"
    assert prompt.defuse("<<s>/s>") == "<< s>/s>"


def test_a_system_prompt_is_defused_too(tokenizer):
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert image not in make(tokenizer, "look at <image>").before


@pytest.mark.parametrize("text", ["\u200b<image>", "\uff1cimage\uff1e", "<im\u00adage>"])
def test_look_alikes_are_only_text(tokenizer, prompt, text):
    assert tokenizer.convert_tokens_to_ids("<image>") not in prompt.after(text)


def test_long_texts_are_tokenised_without_a_word(prompt, caplog, capfd):
    assert len(prompt.after("why " * 4000)) >= 4000
    assert caplog.text == ""
    assert capfd.readouterr().err == ""


def test_blanks_around_a_text_are_dropped_and_those_in_it_kept():
    assert check_text(" a\n b\t", "question") == "a\n b"
