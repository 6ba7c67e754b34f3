# SPDX-License-Identifier: Apache-2.0
"""A question beside an image's patches, in one space: what selectors that look at both ask for.

    compare = load_relevance(selector, device=torch.device("cpu"), dtype=torch.float32)
    image_text = compare(features, "is the path clear?", question_embeddings)

A LLaVA checkpoint holds CLIP's vision tower without its text tower and projections. These come from
a CLIP model on this machine; nothing is fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.files import find_folder, read_json
from svd_vlm_ros.models.interface import Compare
from svd_vlm_ros.models.loading import quietly
from svd_vlm_ros.models.relevance import by_words, unit_rows
from svd_vlm_ros.selection.features import ImageText, VisualFeatures
from svd_vlm_ros.selection.relevance import TextRelevance

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPVisionModel, PreTrainedTokenizerBase


def load_relevance(selector: TextRelevance, device: torch.device, dtype: torch.dtype) -> Compare:
    """What makes `VisualFeatures.image_text` for a selector that needs it.

    Args:
        selector: says by its options in which space, and by which CLIP.
        device: where the features are.
        dtype: to hold CLIP's weights in; the comparison itself is in float32.

    Raises:
        UserError: the CLIP model is not on this machine, is incomplete, or is none.
    """
    if selector.relevance == "words":
        return by_words()
    clip = ClipText.load(selector.clip, device, dtype)
    return lambda features, question, _: clip(features, question)


def check_relevance(selector: TextRelevance) -> None:
    """Raise `UserError` if `load_relevance` would for want of files; reads no weights."""
    if selector.relevance != "words":
        _find(selector.clip)


class ClipText:
    """CLIP's text tower, and the two projections into the space that it shares with images.

    Make one with `load`. Of the vision tower it keeps the last normalisation only: patches come
    from LLaVA's own tower, whose weights are CLIP's.
    """

    def __init__(self, model: CLIPModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self._text = model.text_model
        self._text_projection = model.text_projection
        vision = cast("CLIPVisionModel", model.vision_model)
        self._norm: nn.LayerNorm = vision.post_layernorm
        self._projection = model.visual_projection
        self._tokenizer = tokenizer
        self._length = int(model.config.text_config.max_position_embeddings)  # type: ignore[union-attr]
        self._name = name

    @classmethod
    def load(cls, name: str, device: torch.device, dtype: torch.dtype) -> ClipText:
        """Load CLIP from a folder or from the hub's local cache; safetensors only, no network.

        Raises:
            UserError: see `load_relevance`.
        """
        from safetensors import SafetensorError
        from transformers import AutoTokenizer, CLIPModel

        folder = _find(name)
        kind = read_json(folder / "config.json").get("model_type")
        if kind != "clip":
            raise UserError(f"{name} is '{kind}', not a CLIP model with a text tower.")
        try:
            with quietly():
                loaded: Any = CLIPModel.from_pretrained(
                    folder,
                    dtype=dtype,
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                )
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"The CLIP model {name} in {folder} can't be read: {error}") from error
        model, info = loaded
        if info["missing_keys"]:
            raise UserError(f"The CLIP model {name} in {folder} lacks weights: fetch it again.")
        model.eval().requires_grad_(False)
        # Its vision tower would be a second copy of LLaVA's.
        model.vision_model.encoder = nn.Identity()
        return cls(model.to(device), tokenizer, name)

    @torch.inference_mode()
    def __call__(self, features: VisualFeatures, question: str) -> ImageText:
        """Compare patches [N, D] and a question, of which CLIP reads the first 77 tokens.

        Raises:
            UserError: the patches are not those of this CLIP.
        """
        width = self._norm.normalized_shape[0]
        if features.patches.shape[1] != width:
            raise UserError(
                f"{self._name} has a vision tower of width {width}, this model one of "
                f"{features.patches.shape[1]}: take the CLIP that its tower comes from, or "
                "relevance='words'."
            )
        asked = self._tokenizer(
            question, truncation=True, max_length=self._length, return_tensors="pt"
        )
        device = self._projection.weight.device
        read = self._text(input_ids=asked["input_ids"].to(device)).pooler_output
        text = self._text_projection(read)
        rows = features.patches.to(self._projection.weight.dtype)
        patches = self._projection(self._norm(rows))
        return ImageText(unit_rows(patches), unit_rows(text), inverted=True)


def _find(name: str) -> Path:
    try:
        return find_folder(name)
    except UserError as error:
        raise UserError(
            f"The selector compares the question with the image by the CLIP model {name}, which "
            f"is not whole on this machine: fetch it with 'svd-vlm download {name}', or say "
            "relevance='words' to compare by the language model's own words."
        ) from error
