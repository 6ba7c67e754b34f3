# SPDX-License-Identifier: Apache-2.0
"""The values that the engine gives out: what it is, what it saw, what it answered. All frozen.

What is an array in them is one of the runtime's: a tensor, or NumPy's. No torch is imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from svd_vlm_ros.models.images import TYPICAL
from svd_vlm_ros.models.options import ModelOptions

if TYPE_CHECKING:
    from svd_vlm_ros.models.images import Box, Framing, TiledFraming
    from svd_vlm_ros.models.interface import Compare, Prefix
    from svd_vlm_ros.models.tokens import Tokens
    from svd_vlm_ros.selection import (
        Budget,
        FeatureSelector,
        LayerSelector,
        Selection,
        VisualFeatures,
    )


@dataclass(frozen=True)
class EngineInfo:
    """What an engine runs.

    Attributes:
        model: the name that it was loaded by.
        precision: fp32, bf16, fp16, int8 or int4; what was chosen if "auto" was asked for.
        dtype: of activations and of the weights that are not quantized, e.g. "bfloat16".
        device: "cpu" or "cuda:N".
        selector: its name.
        visual_tokens: the standard budget: a number, or an energy (float) under `token_cap`.
        token_cap: the most tokens that an energy may keep.
        visual_tokens_total: the patches of an image, of one of 640 x 480 pixels if they depend
            on it.
        selectors: those that the model can run.
        grid: rows and columns of patches; None: they depend on the image.
        image_size: the longer side of a typical image, in pixels: what the vision encoder sees if
            that is fixed.
        aspect: "pad" or "crop".
        context: the most tokens, visual ones included, that the language model was made for.
        random_weights: the answers mean nothing.
        weight_bytes: memory of the weights, buffers and quantization constants included.
        quantized_layers: {component: (quantized linear layers, all linear layers)}.
        shareable: a scene may be asked many questions at the cost of one. Not so if the selector
            looks at the question: then every question chooses its own visual tokens.
        system_prompt: the text in front of the conversation; None: none.
        options: as the model was loaded with.
        runtime: "torch" or "onnx": what computes.
        advice: a sentence for the user about precision and memory; empty: all is well.
    """

    model: str
    precision: str
    dtype: str
    device: str
    selector: str
    visual_tokens: int | float
    token_cap: int
    visual_tokens_total: int
    selectors: tuple[str, ...]
    grid: tuple[int, int] | None
    image_size: int
    aspect: str
    context: int
    random_weights: bool
    weight_bytes: int
    quantized_layers: dict[str, tuple[int, int]]
    shareable: bool = True
    system_prompt: str | None = None
    advice: str = ""
    layers: int = 0  # of the language model
    runtime: str = "torch"
    options: ModelOptions = field(default_factory=ModelOptions)

    @property
    def typical_image(self) -> tuple[int, int]:
        """Height and width in pixels of an image that has `visual_tokens_total` patches."""
        if self.grid is None:
            return TYPICAL
        rows, columns = self.grid
        longest = max(rows, columns)
        return self.image_size * rows // longest, self.image_size * columns // longest


@dataclass(frozen=True)
class SceneTimings:
    """Seconds that each stage of `see` took.

    `prefill` is the reading of the system prompt, with the first scene that needs it; an image is
    read with the first question.
    """

    preprocess: float
    encode: float
    select: float
    project: float
    prefill: float

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return self.preprocess + self.encode + self.select + self.project + self.prefill


@dataclass(frozen=True, eq=False)
class PendingSelection:
    """What is left to do once the question is known, if a selector before the language model looks
    at it.

    Attributes:
        selector, budget: what will choose.
        features: what it will look at.
        compare: puts question and patches in one space, for a selector that needs "image_text".
        system: what the language model has read of the system prompt.
        room: position ids that the visual tokens will take up.
    """

    selector: FeatureSelector
    budget: Budget
    features: VisualFeatures
    compare: Compare | None
    system: Prefix
    room: int


@dataclass(frozen=True, eq=False)
class PendingPruning:
    """What is left to do once the question is known, if a selector acts inside the language model.

    Attributes:
        selector, budget: what will drop tokens.
        visual: all visual tokens, projected.
        system: what the language model has read of the system prompt.
        room: position ids that the visual tokens will take up.
    """

    selector: LayerSelector
    budget: Budget
    visual: Tokens
    system: Prefix
    room: int


@dataclass(frozen=True, eq=False)
class Scene:
    """An image that was looked at: made once, asked as often as one likes.

    Nothing of it changes but `prefix`, which the first question fills, once: it reads the image in
    the same pass as itself.

    It belongs to the engine that made it, and holds device memory (`prefix.memory_bytes`) until it
    is let go.

    Attributes:
        selection: the kept patches and the scores of all; None if the scene is not shareable.
        tokens_kept: visual tokens that the language model reads, or as many as a question may
            choose if the scene is not shareable.
        tokens_total: patches of the image, padding included.
        grid: rows and columns of patches; None: they form no one grid.
        image_shape: height, width and channels of the source image.
        framing: where the patches lie in the source image.
        prefix: what the language model has read of system prompt and image, from the first
            question on; None if the scene is not shareable.
        timings: what it took to make.
        pending: what every question still has to do; None if the scene is shareable.
    """

    selection: Selection | None
    tokens_kept: int
    tokens_total: int
    grid: tuple[int, int] | None
    image_shape: tuple[int, int, int]
    framing: Framing | TiledFraming
    prefix: Prefix | None
    timings: SceneTimings
    pending: PendingSelection | PendingPruning | None = None

    @property
    def shareable(self) -> bool:
        """Whether questions share what was computed; else each selects and prefills for itself."""
        return self.pending is None

    def patch_box(self, index: int) -> Box:
        """What a patch shows: x0, y0, x1, y1 in pixels of the source image, x1, y1 exclusive.

        Cut at the image's edges: a patch of padding has an empty box.
        """
        return self.framing.patch_box(index)


@dataclass(frozen=True)
class AnswerTimings:
    """Seconds of an answer.

    Attributes:
        prefill: reading the question, up to the first token's probabilities (choices: all of it).
            The first question on a scene reads the image, too.
        decode: writing the tokens after the first.
        first_token: from the call until the first token was known.
        total: the whole call.
        select: choosing this question's visual tokens; 0.0 if the scene is shared, and inside
            the language model: there it is a part of `prefill`.
        project: projecting them; 0.0 if that was done with the scene.
    """

    prefill: float
    decode: float
    first_token: float
    total: float
    select: float = 0.0
    project: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What the model answered.

    Attributes:
        text: the answer; of choices the likeliest, as it was given.
        confidence: geometric mean of the probabilities of the answer's tokens; the probability of
            the end token if the answer is empty; of choices the choice's probability; 0.0 if
            the answer was stopped before its first token.
        probabilities: one for each choice, summing to 1; () without choices.
        finish_reason: "stop": the model ended its answer. "length": it was cut at
            `max_new_tokens`. "choice". Else the reason that `should_stop` gave.
        prompt_tokens: all tokens in front of the answer, visual ones included.
        answer_tokens: tokens of the answer, without the end token.
        token_ids: those tokens.
        timings: what it took.
        selection: the visual tokens that this answer looked at.
        layer_tokens: visual tokens that each layer of the language model read.
    """

    text: str
    confidence: float
    probabilities: tuple[float, ...]
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int
    token_ids: tuple[int, ...]
    timings: AnswerTimings
    selection: Selection | None = None
    layer_tokens: tuple[int, ...] = ()


class Stopwatch:
    """Seconds between stages. It waits for the device, or it would time the asking only."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait
        self._begun = self._last = self._now()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = self._now()
        seconds, self._last = now - self._last, now
        return seconds

    def total(self) -> float:
        """Seconds since the beginning, up to now."""
        return self._now() - self._begun

    def elapsed(self) -> float:
        """Seconds since the beginning, without waiting for the device."""
        return time.perf_counter() - self._begun

    def _now(self) -> float:
        self._wait()
        return time.perf_counter()
