# SPDX-License-Identifier: Apache-2.0
"""What the loaders of all families share: devices, end tokens, quiet, sentences for failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.options import refuse_pixels as refuse_pixels  # of all runtimes
from svd_vlm_ros.models.weights.precision import QUANTIZED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def resolve_device(device: str) -> torch.device:
    """The device that a user's word means. Raises `UserError` if it is absent or not known."""
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in ("cpu", "cuda"):
        raise UserError(f"There is no device '{device}': take auto, cpu, cuda or cuda:N.")
    if place.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("CUDA was asked for, but torch finds no GPU: see 'svd-vlm doctor'.")
    index = place.index or 0
    if index >= torch.cuda.device_count():
        raise UserError(f"There is no {device}: this machine has {torch.cuda.device_count()} GPU.")
    return torch.device("cuda", index)


def end_tokens(
    config_ends: int | Iterable[int] | None, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    """What `generate` would stop at.

    Args:
        config_ends: of the generation config, which come first.
        tokenizer: whose end token is taken if there are none.

    Raises:
        UserError: there is none at all.
    """
    ends = tokenizer.eos_token_id if config_ends is None else config_ends
    if ends is None:
        raise UserError("The model has no end token, so its answers would never end.")
    return frozenset([ends] if isinstance(ends, int) else ends)


@contextmanager
def failures_in_words(name: str, precision: str, device: torch.device) -> Iterator[None]:
    """While weights are loaded: what users can mend becomes a `UserError`."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        smaller = "random:tiny or scout" if precision == "int4" else "int4"
        raise UserError(
            f"{name} in {precision} does not fit into the memory of {device}: take {smaller}."
        ) from error
    except RuntimeError as error:
        if precision not in QUANTIZED:
            raise
        raise UserError(
            f"bitsandbytes can't quantize on {device} ({error}): see 'svd-vlm doctor', or take "
            "bf16 or fp16."
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' progress bars out of a node's log and of a command's output."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
