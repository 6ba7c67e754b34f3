# SPDX-License-Identifier: Apache-2.0
"""What a model family is: the protocols that the engine knows, and the values between them.

    ModelFamily ──load──► LoadedModel ──► ImageProcessor   uint8 [H, W, 3] to pixel values
                                          VisionEncoder    pixel values to VisualFeatures [N, D]
                                          Connector        what was kept to VisualTokens [k, hidden]
                                          Prompt           the text around the image, as token ids
                                          LanguageModel    prefill, decode, score

A family is a folder in `models/` that is registered by the `model_type` of its config.json. The
encoder need not have a class token, nor the patches a square grid; selection stands between
encoder and connector, so that only what is kept is projected.

Importing this module imports no torch: its types are named for those that check them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from svd_vlm_ros.models.images import ProcessedImage
from svd_vlm_ros.models.options import ModelOptions, PositionPolicy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from svd_vlm_ros.models.tokens import Tokens
    from svd_vlm_ros.planning.shapes import ModelSizes
    from svd_vlm_ros.selection.features import ImageText, VisualFeatures
    from svd_vlm_ros.selection.inside import LayerSelector
    from svd_vlm_ros.selection.kinds import EncoderSelector
    from svd_vlm_ros.selection.relevance import TextRelevance
    from svd_vlm_ros.selection.values import Budget, Need, Selection

__all__ = [
    "Compare",
    "Connector",
    "ImageProcessor",
    "LanguageModel",
    "LoadedModel",
    "ModelFamily",
    "ModelOptions",
    "PositionPolicy",
    "Prefix",
    "ProcessedImage",
    "Prompt",
    "TokenPruning",
    "VisionEncoder",
    "Writer",
]


class Compare(Protocol):
    """Puts a question beside an image's patches."""

    def __call__(self, features: VisualFeatures, question: str, embeddings: Tensor) -> ImageText:
        """Compare an image's features with a question and the language model's embeddings of it."""
        ...


class ImageProcessor(Protocol):
    """Prepares images for an encoder.

    Attributes:
        size: the longer side of a typical image, in pixels: what the encoder sees if that is fixed.
        grid: rows and columns of patches; None: they depend on the image.
        tokens: visual tokens of an image, of one of 640 x 480 pixels if they depend on it.
        aspects: the values of `aspect` that it knows, the default first.
    """

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def grid(self) -> tuple[int, int] | None: ...  # noqa: D102

    @property
    def tokens(self) -> int: ...  # noqa: D102

    @property
    def aspects(self) -> tuple[str, ...]: ...  # noqa: D102

    def __call__(self, image: np.ndarray, aspect: str) -> ProcessedImage:
        """Prepare a checked image, uint8 [H, W, 3] RGB; it is not changed."""
        ...


class VisionEncoder(Protocol):
    """From pixel values to the features of patches.

    Attributes:
        gives: the needs of selectors that it can meet; those of a question are not its business.
    """

    @property
    def gives(self) -> frozenset[Need]: ...  # noqa: D102

    def __call__(
        self,
        image: ProcessedImage,
        needs: frozenset[Need] = frozenset(),
        selector: EncoderSelector | None = None,
        budget: Budget | None = None,
    ) -> VisualFeatures:
        """Encode one image.

        Args:
            image: what to see.
            needs: what is wanted beyond the patches, among `gives`.
            selector: works inside the encoder within `budget`; it runs the layers. None: a need
                "encoder" yields the opened encoder, so that several budgets share one image.
            budget: for that selector.
        """
        ...


class Connector(Protocol):
    """From kept features to the language model's embeddings: projector, merger, adapter."""

    def __call__(self, features: VisualFeatures, selection: Selection) -> Tokens:
        """The visual tokens of what was kept, in the order of their patches and at their
        positions, with the markers that stand among them.
        """
        ...

    def room(self, features: VisualFeatures, kept: int) -> int:
        """Tokens, or position ids if they are more, that `kept` patches and markers take up."""
        ...


class Prompt(Protocol):
    """The text around the image as token ids; `models/prompt.py` has the common one.

    Attributes:
        before: the ids in front of the image.
    """

    before: tuple[int, ...]

    def after(self, question: str) -> tuple[int, ...]:
        """The ids from the image to where the answer begins. `UserError`: it can't be asked."""
        ...

    def words(self, question: str) -> tuple[int, ...]:
        """The ids of the question alone."""
        ...

    def answer(self, question: str, answer: str) -> tuple[int, ...]:
        """The ids of an answer that follows a question, without an end token."""
        ...

    def text(self, question: str) -> str:
        """The whole prompt as text, for the family's own processor."""
        ...

    def end(self, end_token_ids: frozenset[int]) -> int:
        """Of the ids that end an answer the one that the template writes behind it."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        ...


class Prefix(Protocol):
    """What a language model has read, or will have read with the first question behind it."""

    @property
    def length(self) -> int:
        """Tokens, visual ones among them."""
        ...

    @property
    def end(self) -> int:
        """The position id of what follows."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes that its keys and values take by now."""
        ...


class TokenPruning(Protocol):
    """Drops visual tokens between the layers while one question is read.

    Attributes:
        counts: visual tokens that each layer has read so far.
    """

    counts: list[int]

    def selection(self) -> Selection:
        """What the last layer read."""
        ...


class Writer(Protocol):
    """Answers that are being written, a token of each in every step."""

    def step(self, rows: Sequence[int]) -> list[tuple[int, float]]:
        """Write one more token of the answers `rows`: ids, and the model's probabilities of them.
        The first step reads the questions; a row that is left out once has ended.
        """
        ...


class LanguageModel(Protocol):
    """A language model over a KV cache of its own. Greedy, in one thread."""

    @property
    def layers(self) -> int:
        """How many layers it has."""
        ...

    def embed(self, ids: Sequence[int]) -> Tokens:
        """The embeddings of token ids, in order."""
        ...

    def prefill(self, tokens: Tokens) -> Prefix:
        """Read one or more tokens."""
        ...

    def extend(self, prefix: Prefix, tokens: Tokens) -> Prefix:
        """A prefix with more tokens behind it, which are read with the first question."""
        ...

    def pruning(self, selector: LayerSelector, budget: Budget, visual: int) -> TokenPruning:
        """What drops visual tokens of one question, for `write` and `score`. `UserError`: the
        budget can't be reached.
        """
        ...

    def write(
        self,
        prefix: Prefix,
        questions: Sequence[Tokens],
        limits: Sequence[int],
        pruning: TokenPruning | None = None,
    ) -> Writer:
        """Answer questions behind a prefix in one batch, each with at most `limits` tokens."""
        ...

    def score(
        self,
        prefix: Prefix,
        asked: Sequence[tuple[Tokens, Sequence[Sequence[int]]]],
        pruning: TokenPruning | None = None,
    ) -> list[list[float]]:
        """The log-probabilities of texts (token ids) behind questions, for each question."""
        ...


class LoadedModel(Protocol):
    """A model of some family in memory: evaluation mode, no gradients, on its device.

    Attributes:
        model: all its weights; for laying them out, counting and measuring them.
        tokenizer: of the same checkpoint.
        images: how images become pixel values.
        context: the most tokens, visual ones included, that the language model reads.
        end_token_ids: the ids that end an answer.
        precision: fp32, bf16, fp16, int8 or int4.
        dtype: of activations and of the weights that are not quantized.
        random_weights: the answers mean nothing.
        components: {component: full names of the modules that it consists of}. Of these
            "language_model" is what int8 and int4 quantize.
        prunes: whether selectors can drop visual tokens between the layers of the language model:
            all that stands for an image is visual tokens then, at positions in one row.
    """

    @property
    def prunes(self) -> bool: ...  # noqa: D102

    @property
    def components(self) -> Mapping[str, tuple[str, ...]]: ...  # noqa: D102

    @property
    def model(self) -> nn.Module: ...  # noqa: D102

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...  # noqa: D102

    @property
    def images(self) -> ImageProcessor: ...  # noqa: D102

    @property
    def context(self) -> int: ...  # noqa: D102

    @property
    def end_token_ids(self) -> frozenset[int]: ...  # noqa: D102

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    @property
    def random_weights(self) -> bool: ...  # noqa: D102

    def prompt(self, system_prompt: str | None) -> Prompt:
        """The prompt with a checked text in front of the conversation; None: none."""
        ...

    def encoder(self) -> VisionEncoder:
        """The vision encoder, over the same weights."""
        ...

    def connector(self) -> Connector:
        """The connector, over the same weights."""
        ...

    def language_model(self) -> LanguageModel:
        """A language model with a cache of its own, over the same weights."""
        ...

    def stock_inputs(self, image: np.ndarray, question: str) -> dict[str, Any]:
        """What transformers' own `generate` takes for an image and a question, all visual tokens;
        on the CPU. For measuring beside it.
        """
        ...

    def compare(self, selector: TextRelevance) -> Compare:
        """What puts a question beside an image's patches for a selector that needs "image_text".

        Raises:
            UserError: a model that it takes is not on this machine, or the family has none.
        """
        ...


class ModelFamily(Protocol):
    """Models of one architecture, by the `model_type` of their config.json."""

    @property
    def model_type(self) -> str:
        """What config.json says."""
        ...

    @property
    def random_models(self) -> tuple[str, ...]:
        """The names of its models with random weights, "random:..."."""
        ...

    def is_random(self, name: str) -> bool:
        """Whether a name is that of one of its random models."""
        ...

    def check(self, name: str, config: Mapping[str, object]) -> None:
        """Raise `UserError` unless a config.json describes a model that this package can run."""
        ...

    def sizes(self, name: str) -> ModelSizes:
        """The sizes of a model that is on this machine, without its weights."""
        ...

    def load(
        self, name: str, *, precision: str, device: str, seed: int, options: ModelOptions
    ) -> LoadedModel:
        """Load a model that is on this machine; see `models.load`."""
        ...

    def relevance(self, name: str) -> str:
        """The space in which selectors compare a question with an image of a model of this name:
        "clip" if there is a text encoder for its vision encoder, else "words".
        """
        ...

    def check_relevance(self, selector: TextRelevance) -> None:
        """Raise `UserError` if `LoadedModel.compare` would for want of files; reads no weights."""
        ...
