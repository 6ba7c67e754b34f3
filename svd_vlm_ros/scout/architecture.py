# SPDX-License-Identifier: Apache-2.0
"""Scout's architecture, tokenizer and processor files: a LLaVA-1.5 in every respect but size.

`build()` gives a `LlavaForConditionalGeneration` with random weights; `save_processor()` writes the
files beside it. Both load through the code that loads `llava-hf/llava-1.5-7b-hf`.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import TYPE_CHECKING

from .wordings import vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlavaConfig, LlavaForConditionalGeneration

MODEL_FOLDER = Path(__file__).parent / "model"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD, BOS, EOS, UNK, IMAGE = range(5)
VISION_WIDTH, VISION_LAYERS = 192, 5  # the last layer is never used: LLaVA reads layer -2
LANGUAGE_WIDTH, LANGUAGE_LAYERS = 256, 4
LONGEST = 2048  # positions of the language model

# CLIP's own normalisation, as in LLaVA-1.5.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def words() -> list[str]:
    """The tokenizer's vocabulary: special tokens, the world's words, and letters so that no
    question is unreadable.
    """
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = ["##" + c for c in letters] + ["##s", "##es"]
    known = [*vocabulary(), "user", "assistant", *string.punctuation, *letters, *pieces]
    return list(dict.fromkeys([*SPECIAL, *known]))


def tokenizer() -> Tokenizer:
    """Lower-cased words and single digits; unknown words fall into letters."""
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    ids = {word: i for i, word in enumerate(words())}
    made = Tokenizer(models.WordPiece(ids, unk_token="<unk>", max_input_chars_per_word=64))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"[^\w\s]|_"), behavior="isolated"),
        ]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    made.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    made.add_special_tokens(list(SPECIAL))
    return made


def config() -> LlavaConfig:
    """The configuration: CLIP tower, projector and Llama of LLaVA-1.5, small."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
        projection_dim=VISION_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=-(-len(words()) // 64) * 64,
        hidden_size=LANGUAGE_WIDTH,
        intermediate_size=704,
        num_hidden_layers=LANGUAGE_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST,
        rms_norm_eps=1e-5,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        image_seq_length=576,
        multimodal_projector_bias=True,
        tie_word_embeddings=False,
    )


def build() -> LlavaForConditionalGeneration:
    """Scout with random weights, float32, in training mode."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(config())


def save_processor(folder: Path) -> None:
    """Tokenizer and processor files in the layout of `llava-hf/llava-1.5-7b-hf`."""
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    text = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        model_max_length=LONGEST,
        padding_side="left",
    )
    pixels = CLIPImageProcessor(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_mean=MEAN,
        image_std=STD,
    )
    LlavaProcessor(
        image_processor=pixels,
        tokenizer=text,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    generation = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
