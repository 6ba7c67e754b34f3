# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's own chat template, as the template of a `Prompt`; ChatML for those without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
_MARK = "svd-vlm answer"  # stands for an answer while a template is looked at


def chatml(image: str) -> str:
    """The turns of ChatML as a chat template; a system prompt only if there is one.

    Args:
        image: what it writes for an image.
    """
    return (
        "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
        "{%- for part in message.content %}"
        "{%- if part.type == 'image' %}{{ "
        + repr(image)
        + " }}{% else %}{{ part.text }}{% endif %}"
        "{%- endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """Renders one turn of a conversation: an image and a question, and perhaps the answer.

    Attributes:
        tokenizer: renders.
        source: the template, in Jinja, as transformers renders it.
        image_token: what stands for an image's tokens.
        around: what the family's processor puts in front of an image's tokens and behind them.
        written: what the template writes for an image if it is not `image_token`; the processor
            puts that in its place.
    """

    tokenizer: PreTrainedTokenizerBase
    source: str
    image_token: str
    around: tuple[str, str] = ("", "")
    written: str = ""

    def render(self, question: str, system: str = "", answer: str = "") -> str:
        """The whole text, the image token in it once; see `prompt.Template`."""
        text = self._render(_messages(question, system), add_generation_prompt=True)
        if answer:
            before, _ = self._answered(question, system, text)
            text += before + answer
        written, (first, last) = self.written or self.image_token, self.around
        if text.count(written) != 1:
            raise UserError(
                f"The model's chat template has the image {text.count(written)} times in it, not "
                "once: fetch the model again."
            )
        return text.replace(written, f"{first}{self.image_token}{last}")

    def ending(self) -> str:
        """What the template writes behind an answer."""
        text = self._render(_messages("?", ""), add_generation_prompt=True)
        return self._answered("?", "", text)[1]

    def _answered(self, question: str, system: str, asked: str) -> tuple[str, str]:
        """What stands between a prompt and its answer, and behind the answer."""
        turn = {"role": "assistant", "content": [{"type": "text", "text": _MARK}]}
        whole = self._render([*_messages(question, system), turn], add_generation_prompt=False)
        # Some write more into a generation prompt (an empty thought) than they keep in a turn.
        behind = whole[len(asked) :] if whole.startswith(asked) else whole[whole.rfind(_MARK) :]
        before, _, after = behind.partition(_MARK)
        return before, after

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    chat_template=self.source,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise UserError(f"The model's chat template can't be rendered: {error}.") from error


def find_chat_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template of a checkpoint; None: it has none.

    Args:
        folder: may hold `chat_template.jinja`, or `chat_template.json`, or a processor's file with
            the template in it; they come before the tokenizer's own, in this order.
        tokenizer: of the checkpoint.

    Raises:
        UserError: one of the files is broken.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        if (folder / name).is_file():
            found = read_json(folder / name).get("chat_template")
            if isinstance(found, str):
                return found
    found = tokenizer.chat_template
    return found if isinstance(found, str) else None


def _messages(question: str, system: str) -> list[Message]:
    asked = [{"type": "image"}, {"type": "text", "text": question}]
    messages: list[Message] = [{"role": "user", "content": asked}]
    if system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return messages
