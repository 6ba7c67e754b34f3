# SPDX-License-Identifier: Apache-2.0
"""The engine: see an image once, ask about it many times. No ROS in it, and no network.

    engine = SceneEngine.load("scout", precision="int8", visual_tokens=64)
    scene = engine.see(image)                        # uint8 [H, W, 3], RGB
    engine.ask(scene, "what is the ground?").text    # "grass"
    engine.choose(scene, "is the path clear?", ["yes", "no"]).probabilities

SVD-Prune chooses tokens by the image alone, so that everything up to the question is computed
once: `see` encodes, selects and projects, and the language model reads the image together with
the first question. Each further one continues from there, and questions that wait together are
answered in one batch. A selector that looks at the question can't share: then `see` encodes, and
each question does the rest for itself (`Scene.shareable`).

What computes is a runtime (`models.runtime`): torch, or onnxruntime, which needs no torch. The
engine is the same over both, and imports neither; the checks and the sentences are its own.

`loading` brings the parts, `scenes` makes scenes, `answers` answers, `values` has the values. What
a model is stands in `svd_vlm_ros.models.interface`.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_vlm_ros.defaults import SELECTOR
from svd_vlm_ros.engine.answers import Answerer
from svd_vlm_ros.engine.checks import check_fits
from svd_vlm_ros.engine.loading import load_parts
from svd_vlm_ros.engine.runtimes import runtime_named
from svd_vlm_ros.engine.scenes import SceneMaker, SelectorInUse
from svd_vlm_ros.engine.values import (
    Answer,
    EngineInfo,
    Scene,
    Stopwatch,
)
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.models.images import check_image
from svd_vlm_ros.models.options import ModelOptions, PositionPolicy
from svd_vlm_ros.selection import Budget, Need, Selector, make_budget
from svd_vlm_ros.texts import check_text

if TYPE_CHECKING:
    from svd_vlm_ros.models.images import Framing, TiledFraming
    from svd_vlm_ros.models.interface import LoadedModel, Prompt
    from svd_vlm_ros.selection import VisualFeatures

DESCRIBE = "Describe the scene."

__all__ = ["DESCRIBE", "SceneEngine"]


class SceneEngine:
    """A vision language model with a selector of visual tokens. Make one with `load`.

    One thread owns an engine: it is not locked, and two calls at once would share its device. A
    `Scene` may be looked at by any thread, but be asked by that one only.

    Attributes:
        info: what it runs.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        info: EngineInfo,
        selector: Selector,
        system_prompt: str | None = None,
    ) -> None:
        budget = make_budget(info.visual_tokens, info.token_cap)
        self._runtime = runtime_named(info.runtime)
        self._watch = functools.partial(
            Stopwatch, functools.partial(self._runtime.wait, loaded.device)
        )
        self._loaded: LoadedModel | None = loaded
        self._encoder, self._language = loaded.encoder(), loaded.language_model()
        self.info = replace(info, layers=self._language.layers, system_prompt=_plain(system_prompt))
        self._chosen = self._fitting(selector, budget)
        self.info = replace(self.info, shareable=self._chosen.shareable)
        self._prompt = _make_prompt(loaded, info.context, system_prompt)
        self._scenes = SceneMaker(
            *(self._runtime, loaded, self._encoder, self._language, self._prompt.before),
            info.aspect,
            self._watch,
        )
        self._answerer = Answerer(
            *(self._runtime, loaded, self._language, self._scenes.connector, self._prompt),
            info.context,
            self._watch,
        )

    @classmethod
    def load(
        cls,
        model: str = "scout",
        *,
        runtime: str = "auto",
        precision: str = "auto",
        selector: str = SELECTOR,
        visual_tokens: int | float = 192,
        token_cap: int = 192,
        device: str = "auto",
        aspect: str = "pad",
        system_prompt: str | None = None,
        cpu_threads: int = 0,
        selector_options: dict[str, Any] | None = None,
        seed: int = 0,
        position_policy: PositionPolicy = "auto",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> SceneEngine:
        """Load a model. Nothing is ever fetched.

        Args:
            model: "scout" (embedded), a folder or a hub id that is on this machine, "random:tiny"
                or "random:llava-1.5-7b"; for the runtime onnx a folder that was exported.
            runtime: what computes: torch, onnx (which needs neither torch nor transformers), or
                auto: onnx if the model is a folder that was exported, else torch.
            precision: auto (the fastest that this machine has for the model and that fits into its
                memory), fp32, bf16, fp16, int8 or int4; of an export auto, or its own.
            selector: one of `svd_vlm_ros.selection.selector_names()`; the runtime onnx has some of
                them (`svd_vlm_ros.onnx_runtime.selectors.SELECTORS`).
            visual_tokens: an int is the number of tokens to keep; a float in (0, 1] an energy: as
                many as it takes, at most `token_cap`.
            token_cap: see `visual_tokens`.
            device: auto (CUDA if there is one), cpu, cuda or cuda:N.
            aspect: "pad" shows the whole image, "crop" only its middle square.
            system_prompt: a text in front of the conversation; None: none.
            cpu_threads: threads of torch and of the kernels, for the whole process, or of
                onnxruntime, for this engine; 0: as they are.
            selector_options: see `make_selector`.
            seed: of random weights, and of the selector "random".
            position_policy: see `models.interface.ModelOptions`.
            min_pixels, max_pixels: of the image that a family with dynamic resolution makes; None:
                as the checkpoint says.

        Raises:
            UserError: the model is not on this machine, or an argument is out of its range.
        """
        loaded, info, chosen = load_parts(
            model,
            runtime=runtime,
            precision=precision,
            selector=selector,
            visual_tokens=visual_tokens,
            token_cap=token_cap,
            device=device,
            aspect=aspect,
            cpu_threads=cpu_threads,
            selector_options=selector_options,
            seed=seed,
            options=ModelOptions(position_policy, min_pixels, max_pixels),
        )
        return cls(loaded, info, chosen, system_prompt)

    def see(self, image: np.ndarray, *, visual_tokens: int | float | None = None) -> Scene:
        """Look at an image.

        Args:
            image: uint8 [H, W, 3], RGB. It is not changed and not kept.
            visual_tokens: another budget than the engine's, for this image.

        Raises:
            UserError: the image or the budget can't be used.
        """
        check_image(image)
        budget = self._budget(visual_tokens)
        self._open()
        with self._runtime.computing():
            return self._scenes.see(image, self._chosen, budget)

    def see_features(
        self,
        features: VisualFeatures,
        framing: Framing | TiledFraming,
        image_shape: tuple[int, int, int],
        *,
        visual_tokens: int | float | None = None,
    ) -> Scene:
        """`see` from features that were computed before, so that selectors share one encoding.

        Args:
            features: of this engine's model, from `features`, with what the selector needs.
            framing: where the patches lie in the image, from `framing`.
            image_shape: height, width and channels of the image.
            visual_tokens: another budget than the engine's.

        Raises:
            UserError: the budget can't be used.
        """
        budget = self._budget(visual_tokens)
        self._open()
        with self._runtime.computing():
            return self._scenes.scene(
                features, self._chosen, budget, framing, image_shape, self._watch()
            )

    def features(self, image: np.ndarray, needs: frozenset[Need] | None = None) -> VisualFeatures:
        """What the encoder sees in an image, before any selection; for evaluating selectors.

        Args:
            image: as in `see`.
            needs: what is wanted beyond the patches, of `svd_vlm_ros.selection.NEEDS`; what needs
                a question is left out. None: what the engine's selector needs.

        Raises:
            UserError: the image can't be used, or the encoder does not give what is needed.
        """
        check_image(image)
        self._open()
        if needs is None:
            needs = self._chosen.needs
        with self._runtime.computing():
            return self._scenes.encode(self._scenes.process(image), needs)

    def framing(self, image: np.ndarray) -> Framing | TiledFraming:
        """Where the patches lie in an image; for `see_features`.

        Raises:
            UserError: the image can't be used.
        """
        check_image(image)
        self._open()
        return self._scenes.process(image).framing

    def use_selector(
        self,
        name: str,
        *,
        visual_tokens: int | float | None = None,
        token_cap: int | None = None,
        **options: Any,
    ) -> None:
        """Choose tokens by another selector from now on. Scenes made before stay valid.

        Args:
            name: one of `svd_vlm_ros.selection.selector_names()`.
            visual_tokens: the new standard budget; None: as it is.
            token_cap: see `load`; None: as it is.
            options: see `make_selector`.

        Raises:
            UserError: the name, an option or the budget can't be used; nothing has changed then.
        """
        tokens = self.info.visual_tokens if visual_tokens is None else visual_tokens
        cap = self.info.token_cap if token_cap is None else token_cap
        self._open()
        check_fits(name, self.info)
        selected = self._runtime.make_selector(name, **options)
        chosen = self._fitting(selected, make_budget(tokens, cap))
        self._chosen = chosen
        self.info = replace(
            self.info,
            selector=name,
            visual_tokens=tokens,
            token_cap=cap,
            shareable=chosen.shareable,
        )

    def use_system_prompt(self, text: str | None) -> None:
        """Put another text in front of the conversation from now on; None: none.

        It is read once, with the next image. Scenes made before stay valid, behind the text that
        they were made with.

        Raises:
            UserError: the text has control characters in it, or leaves no room for anything else;
                nothing has changed then.
        """
        prompt = _make_prompt(self._open(), self.info.context, text)
        self._prompt = self._answerer.prompt = prompt
        self._scenes.begin_with(prompt.before)
        self.info = replace(self.info, system_prompt=_plain(text))

    def ask(
        self,
        scene: Scene,
        question: str,
        *,
        max_new_tokens: int = 64,
        should_stop: Callable[[], str | None] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer a question in free text, greedily: the same scene and question, the same answer.

        Args:
            scene: of this engine. The first question fills its `prefix`; nothing else changes.
            question: plain text; blanks around it are dropped.
            max_new_tokens: the longest answer.
            should_stop: called before every token; a string that it returns ends the answer, with
                the text so far and that string as the finish reason.
            on_text: called after every token with the text so far.

        Raises:
            UserError: the question can't be asked, or does not fit beside the image.
        """
        (answer,) = self.ask_many(
            scene,
            [question],
            max_new_tokens=max_new_tokens,
            should_stop=None if should_stop is None else lambda _: should_stop(),
            on_text=None if on_text is None else lambda _, text: on_text(text),
        )
        return answer

    def ask_many(
        self,
        scene: Scene,
        questions: Sequence[str],
        *,
        max_new_tokens: int | Sequence[int] = 64,
        should_stop: Callable[[int], str | None] | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Answer]:
        """Answer several questions on one scene in one batch; each answer is that of `ask` alone.

        They are read together and written together, a token of each at every step. On a scene that
        is not shareable they are answered one after the other.

        Args:
            scene: of this engine. The first question fills its `prefix`; nothing else changes.
            questions: as in `ask`; they may repeat.
            max_new_tokens: the longest answer, of all or of each question.
            should_stop: called with a question's index before each of its tokens.
            on_text: called with a question's index and its text so far after each of its tokens.

        Returns:
            An answer for each question. In a batch `timings` are those of the batch, up to the
            answer's own end.

        Raises:
            UserError: as `ask`, for any of the questions; none is answered then.
        """
        self._open()
        limits = max_new_tokens
        if isinstance(limits, int):
            limits = [limits] * len(questions)
        with self._runtime.computing():
            return self._answerer.ask(scene, questions, limits, should_stop, on_text)

    def choose(self, scene: Scene, question: str, choices: Sequence[str]) -> Answer:
        """Choose the likeliest of several answers, in one forward pass over all of them.

        The score of a choice is the log-probability of its tokens **and of the end token behind
        them**: of giving exactly this answer. So "red" and "red car" are told apart, and no
        correction for length is made: `probabilities`, a softmax over the scores, are those
        of the choices, given that the answer is one of them.

        Args:
            scene: of this engine. The first question fills its `prefix`; nothing else changes.
            question: plain text; blanks around it are dropped.
            choices: two or more different texts. They are compared as they are written: a model
                that was trained to say "Yes" finds "yes" unlikely (and "no" as much).

        Raises:
            UserError: the question or the choices can't be asked, or do not fit beside the image.
        """
        (answer,) = self.choose_many(scene, [(question, choices)])
        return answer

    def choose_many(self, scene: Scene, asked: Sequence[tuple[str, Sequence[str]]]) -> list[Answer]:
        """Choose among answers for several questions, all of them in one forward pass.

        Each result is that of `choose` alone. On a scene that is not shareable they are answered
        one after the other.

        Args:
            scene: of this engine. The first question fills its `prefix`; nothing else changes.
            asked: questions with their choices.

        Raises:
            UserError: as `choose`, for any of the questions; none is answered then.
        """
        self._open()
        with self._runtime.computing():
            return self._answerer.choose(scene, asked)

    def describe(self, scene: Scene, prompt: str | None = None, **as_ask: Any) -> Answer:
        """Describe a scene: `ask` with a standing prompt, or with one of yours."""
        return self.ask(scene, DESCRIBE if prompt is None else prompt, **as_ask)

    def warm_up(self) -> float:
        """Look at a grey image and ask once, so that the first real question is not the slowest.

        Returns:
            The seconds that it took.
        """
        self._open()
        watch = self._watch()
        scene = self.see(np.full((*self.info.typical_image, 3), 128, np.uint8))
        self.ask(scene, DESCRIBE, max_new_tokens=2)
        self.choose(scene, DESCRIBE, ["yes", "no"])
        return watch.total()

    def peak_memory_bytes(self) -> int:
        """The most device memory that was in use since loading; 0 on a CPU, which has none."""
        return self._runtime.peak_memory_bytes(self._open().device)

    def close(self) -> None:
        """Free the weights. Scenes of this engine stay readable, but can't be asked any more."""
        self._loaded = None
        for part in ("_scenes", "_answerer", "_encoder", "_language", "_prompt", "_chosen"):
            if hasattr(self, part):
                delattr(self, part)
        gc.collect()
        self._runtime.free()

    @property
    def loaded(self) -> LoadedModel:
        """The model itself, for measuring it and for looking into it; it is not to be changed.

        Raises:
            RuntimeError: the engine was closed.
        """
        return self._open()

    @property
    def selector(self) -> Selector:
        """What chooses the visual tokens of the next scene."""
        self._open()
        return self._chosen.selector

    def _fitting(self, selector: Selector, budget: Budget) -> SelectorInUse:
        """A selector made ready for this model. Raises `UserError` if it does not fit."""
        layers, total = self._language.layers, self.info.visual_tokens_total
        return SelectorInUse.of(selector, self._open(), self._encoder, layers, total, budget)

    def _open(self) -> LoadedModel:
        if self._loaded is None:
            raise RuntimeError("this engine was closed: load another")
        return self._loaded

    def _budget(self, visual_tokens: int | float | None) -> Budget:
        if visual_tokens is None:
            visual_tokens = self.info.visual_tokens
        return make_budget(visual_tokens, self.info.token_cap)


def _plain(text: str | None) -> str | None:
    """A system prompt as it is used; None: none."""
    return (text or "").strip() or None


def _make_prompt(loaded: LoadedModel, context: int, system_prompt: str | None) -> Prompt:
    """The prompt with this text in front. Raises `UserError` if it can't be used."""
    text = _plain(system_prompt)
    if text is not None:
        check_text(text, "system prompt")
    prompt = loaded.prompt(text)
    if len(prompt.before) >= context:
        raise UserError(
            f"The system prompt has {len(prompt.before)} tokens, but the model was made for "
            f"{context} in all: shorten it."
        )
    return prompt
