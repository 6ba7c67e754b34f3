# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of an export as a prompt takes it (`models.prompt.TextTokenizer`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svd_vlm_ros.errors import UserError


class ExportTokenizer:
    """tokenizer.json, with what transformers says of its special tokens; see `Manifest.prompt`."""

    def __init__(self, path: Path, prompt: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library's own are plain `Exception`s
            raise UserError(f"{path} can't be read ({error}): export the model again.") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.all_special_tokens: Sequence[str] = tuple(prompt["special_tokens"])
        self.all_special_ids: Sequence[int] = tuple(prompt["special_ids"])
        self.bos_token: str | None = prompt.get("bos_token")
        self.unk_token_id: int | None = prompt.get("unk_token_id")

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """The added tokens by their ids."""
        found: Mapping[int, Any] = self._tokenizer.get_added_tokens_decoder()
        return found

    def convert_tokens_to_ids(self, tokens: str) -> int | None:
        """The id of a token; None: there is none."""
        found: int | None = self._tokenizer.token_to_id(tokens)
        return found

    def __call__(
        self, text: str, *, add_special_tokens: bool, verbose: bool = False
    ) -> Mapping[str, list[int]]:
        """The ids of a text, under "input_ids"."""
        encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": list(encoded.ids)}

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """The text of ids."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))
