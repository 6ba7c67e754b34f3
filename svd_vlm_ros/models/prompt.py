# SPDX-License-Identifier: Apache-2.0
"""A family's prompt as token ids, split where the image stands; users' texts stay text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.texts import check_text

if TYPE_CHECKING:
    from svd_vlm_ros.models.chat import ChatTemplate


class TextTokenizer(Protocol):
    """What a prompt takes of a tokenizer: transformers' own, or one without transformers.

    Attributes:
        added_tokens_decoder: the added tokens by their ids; each has `special`.
        all_special_tokens, all_special_ids: those with a part of their own in the model.
    """

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...  # noqa: D102

    @property
    def all_special_tokens(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def all_special_ids(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def unk_token_id(self) -> Any: ...  # noqa: D102

    @property
    def bos_token(self) -> Any: ...  # noqa: D102

    def convert_tokens_to_ids(self, tokens: str) -> Any:
        """The id of a token."""
        ...

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """The ids of a text, under "input_ids"."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> Any:
        """The text of ids."""
        ...


@dataclass(frozen=True)
class Template:
    """The text around an image and a question.

    Attributes:
        image_token: the token that stands for the image.
        user: has `{system}`, `{image}` and `{question}` in it, in this order, and ends where the
            answer begins.
        system: has `{system}` in it; stands for `{system}` above if there is a system prompt.
        answer: has `{answer}` in it; what follows `user`.
    """

    image_token: str
    user: str
    system: str = "{system} "
    answer: str = " {answer}"

    def render(self, question: str, system: str = "", answer: str = "") -> str:
        """The whole text, the image token in it once."""
        before = self.system.format(system=system) if system else ""
        text = self.user.format(system=before, image=self.image_token, question=question)
        return text + (self.answer.format(answer=answer) if answer else "")

    def ending(self) -> str:
        """What stands behind an answer: nothing but the end token."""
        return ""


class Prompt:
    """A template over a tokenizer, with a system prompt in front if there is one.

    The whole prompt is tokenised in one piece, as transformers' own processor does, and then split
    at the image token: tokenised apart, the pieces could differ at the seams. What stands before
    the image does not depend on the question.

    Attributes:
        before: the token ids in front of the image.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        template: Template | ChatTemplate,
        system_prompt: str | None = None,
    ) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._image_token_id: int = tokenizer.convert_tokens_to_ids(template.image_token)
        special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        special |= {*tokenizer.all_special_tokens, template.image_token}
        self._special = sorted(filter(None, special), key=len, reverse=True)
        unknown = tokenizer.unk_token_id
        self._forbidden = {i for i in tokenizer.all_special_ids if i != unknown}
        self._forbidden.add(self._image_token_id)
        self._system = self.defuse((system_prompt or "").strip())
        self._own: list[int] | None = None  # special tokens that the template itself has
        self.before: tuple[int, ...] = self._split("?")[0]

    def after(self, question: str) -> tuple[int, ...]:
        """The token ids from the image to the place where the answer begins.

        Raises:
            UserError: the question is empty, too long, or has control characters in it.
        """
        return self._split(self.defuse(check_text(question, "question")))[1]

    def words(self, question: str) -> tuple[int, ...]:
        """The token ids of the question alone, without the words around it."""
        text = self.defuse(check_text(question, "question"))
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def answer(self, question: str, answer: str) -> tuple[int, ...]:
        """The token ids of an answer that follows a question, without an end token.

        Raises:
            UserError: as `after`, for either text.
        """
        text = self.defuse(check_text(question, "question"))
        start = self._split(text)[1]
        whole = self._split(text, self.defuse(check_text(answer, "choice")))[1]
        if whole[: len(start)] != start or len(whole) == len(start):
            raise UserError(f"The choice '{answer}' can't be told apart from the question.")
        return whole[len(start) :]

    def text(self, question: str) -> str:
        """The whole prompt as text, for the family's own processor."""
        return self._template.render(self.defuse(check_text(question, "question")), self._system)

    def defuse(self, text: str) -> str:
        """The text with the names of special tokens taken apart by a blank after their first sign.

        A question is a user's data. Without this the image token in it would ask for a second
        image, and the end token would end the conversation.
        """
        while found := next((token for token in self._special if token in text), None):
            if len(found) < 2:
                raise UserError(f"The text must not contain '{found}'.")
            text = text.replace(found, f"{found[0]} {found[1:]}")
        return text

    def end(self, end_token_ids: frozenset[int]) -> int:
        """Of the ids that end an answer the one that the template writes behind it."""
        return next((token for token in self._ending if token in end_token_ids), min(end_token_ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @cached_property
    def _ending(self) -> tuple[int, ...]:
        """The token ids that the template writes behind every answer."""
        text = self._template.ending()
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _split(self, question: str, answer: str = "") -> tuple[tuple[int, ...], tuple[int, ...]]:
        ids = tokenize(self._tokenizer, self._template.render(question, self._system, answer))
        at = ids.index(self._image_token_id)
        before, after = tuple(ids[:at]), tuple(ids[at + 1 :])
        special = [token for token in after if token in self._forbidden]
        if self._own is None:
            self._own = special
        if special != self._own:
            raise UserError("The text must not contain the names of the model's special tokens.")
        return before, after


def tokenize(tokenizer: TextTokenizer, text: str) -> list[int]:
    """A prompt's token ids, as transformers' processors make them: a template that writes the first
    token itself gets no second one.
    """
    first = tokenizer.bos_token
    alone = not (first and text.startswith(first))
    ids: list[int] = tokenizer(text, add_special_tokens=alone, verbose=False)["input_ids"]
    return ids
