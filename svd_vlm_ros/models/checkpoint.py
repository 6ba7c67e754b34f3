# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint's files to weights in memory, for every family; nothing is fetched.

transformers holds the weights, in its own classes; bitsandbytes quantizes them while they load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.heap import give_back, keep_libraries
from svd_vlm_ros.models.files import find_folder, is_random, read_json
from svd_vlm_ros.models.language.decoder import MAX_CONTEXT, DecoderParts
from svd_vlm_ros.models.loading import end_tokens, failures_in_words, quietly, resolve_device
from svd_vlm_ros.models.weights.precision import (
    LANGUAGE,
    QUANTIZED,
    check_precision,
    check_quantized,
    check_widths,
    compute_dtype,
    import_bitsandbytes,
    quantization_config,
    quantize_linears,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Components = Mapping[str, tuple[str, ...]]
"""See `LoadedModel.components`."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What every family has of a loaded model; see `interface.LoadedModel`.

    Attributes:
        folder: that holds its files; scout's for random models.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    end_token_ids: frozenset[int]
    precision: str
    dtype: torch.dtype
    device: torch.device
    random_weights: bool


def load_checkpoint(
    name: str,
    model_class: type[PreTrainedModel],
    components: Components,
    image_token: str,
    *,
    precision: str,
    device: str,
    check: Callable[[str, Mapping[str, Any]], None],
    build: Callable[[PreTrainedTokenizerBase, torch.dtype, torch.device], Any],
) -> Checkpoint:
    """Load tokenizer and weights, and see that they belong together; see `models.load`.

    Args:
        name: see `registry.family_of`.
        model_class: of the model.
        components: of the family.
        image_token: what stands for an image's tokens.
        precision, device: see `models.load`.
        check: raises `UserError` unless a config.json describes a model of the family.
        build: makes a model with random weights in `precision`, whose tokenizer is scout's.

    Raises:
        UserError: see `models.load`.
    """
    from transformers import AutoTokenizer

    check_precision(precision)
    place = resolve_device(device)
    dtype = compute_dtype(precision, place)
    folder = find_folder(name)
    if not is_random(name):
        check(name, read_json(folder / "config.json"))
    if precision in QUANTIZED:
        import_bitsandbytes()
    keep_libraries(model_class.__module__)
    with quietly():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with failures_in_words(name, precision, place):
            if is_random(name):
                model = build(tokenizer, dtype, place)
            else:
                how: dict[str, Any] = {"precision": precision, "dtype": dtype, "device": place}
                model = read_weights(name, folder, model_class, components, **how)
    model.eval().requires_grad_(False)
    check_quantized(model, precision, components)
    give_back()
    found, wanted = tokenizer.convert_tokens_to_ids(image_token), model.config.image_token_id
    if found != wanted:
        raise UserError(
            f"The tokenizer of {name} has {image_token} at {found}, its model expects it at "
            f"{wanted}: the files do not belong together."
        )
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        folder=folder,
        end_token_ids=end_tokens(model.generation_config.eos_token_id, tokenizer),
        precision=precision,
        dtype=dtype,
        device=place,
        random_weights=is_random(name),
    )


def read_weights(
    name: str,
    folder: Path,
    model_class: type[PreTrainedModel],
    components: Components,
    *,
    precision: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    """Read a checkpoint into a model of transformers.

    Args:
        name: for sentences.
        folder: that holds the files.
        model_class: of the model.
        components: of the family.
        precision: one of `precision.PRECISIONS`.
        dtype: of what is not quantized.
        device: where the weights go.

    Raises:
        UserError: files are damaged, weights are missing or too odd to be quantized.
    """
    from safetensors import SafetensorError

    config = read_config(folder, model_class)
    check_widths(config.get_text_config(), precision)
    options: dict[str, Any] = {}
    if precision in QUANTIZED or device.type == "cuda":
        options["device_map"] = {"": device}  # straight to the device, shard by shard
    try:
        # With `output_loading_info` it returns a pair, which its type does not tell.
        loaded: Any = model_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            quantization_config=quantization_config(precision, dtype, components),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except SafetensorError as error:
        raise UserError(
            f"The weights of {name} in {folder} are damaged ({error}): fetch the model again."
        ) from error
    model, info = loaded
    # transformers fills what it does not find with random numbers, and goes on.
    wrong = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in info[kind])
    if wrong:
        raise UserError(
            f"{len(wrong)} weights of {name} are missing or of a wrong shape ({wrong[0]}): fetch "
            "the model again."
        )
    return model


def read_config(folder: Path, model_class: type[PreTrainedModel]) -> Any:
    """The configuration of a checkpoint, of the class that a model wants."""
    config_class: Any = model_class.config_class
    return config_class.from_pretrained(folder, local_files_only=True)


def random_weights(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    components: Components,
    *,
    precision: str,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> Any:
    """A model with random weights.

    The same seed gives the same weights on the same kind of device, in each precision that shares
    the dtype (quantized models start from the weights of the unquantized one).

    Args:
        model_class, config: the architecture.
        components: of the family.
        precision: one of `precision.PRECISIONS`.
        dtype: of all that is not quantized.
        device: where the weights are made and stay.
        seed: of the weights. The global random state is left as it was.
    """
    check_widths(config.get_text_config(), precision)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        with torch.device(device):
            model: Any = model_class._from_config(config, dtype=dtype)
    if precision in QUANTIZED:
        for module in components[LANGUAGE]:
            quantize_linears(model.get_submodule(module), precision, dtype)
        give_back()
    return model


def decoder_parts(language: Any, head: nn.Module, config: Any) -> DecoderParts:
    """The parts of a language model of transformers with pre-norm layers and gated MLPs.

    Args:
        language: with `embed_tokens`, `layers`, `norm` and `rotary_emb`.
        head: to logits.
        config: of the language model.
    """
    heads = config.num_attention_heads
    return DecoderParts(
        embedding=language.embed_tokens,
        layers=tuple(language.layers),
        norm=language.norm,
        head=head,
        rotary=language.rotary_emb,
        heads=heads,
        key_value_heads=config.num_key_value_heads or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        context=context_of(config),
    )


def context_of(config: Any) -> int:
    """The most tokens, visual ones included, that a language model is offered.

    Its rotary embedding is held for so many positions: what is read must not be longer.

    Args:
        config: of the language model.
    """
    return min(int(config.max_position_embeddings), MAX_CONTEXT)
