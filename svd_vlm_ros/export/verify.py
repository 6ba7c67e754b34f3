# SPDX-License-Identifier: Apache-2.0
"""An exported folder beside the model in torch: features, kept patches, logits, answers.

    report = verify(folder, images, questions)
    report.rows, report.agrees

Both look at the same pixel values. Features are compared alone, then what a selector keeps of
them, then logits for the same visual tokens, and in the end the answers of both, each all the way
from the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from svd_vlm_ros import models
from svd_vlm_ros.cpu import available_memory
from svd_vlm_ros.errors import UserError
from svd_vlm_ros.export.precision import PRECISIONS
from svd_vlm_ros.export.sessions import Sessions
from svd_vlm_ros.models.tokens import Tokens
from svd_vlm_ros.onnx_runtime.manifest import Manifest
from svd_vlm_ros.selection import (
    FeatureSelector,
    LayerSelector,
    make_budget,
    make_selector,
)
from svd_vlm_ros.selection.values import QUESTION_NEEDS

if TYPE_CHECKING:
    from svd_vlm_ros.models.interface import LoadedModel

LIMIT = 32  # tokens of an answer


@dataclass(frozen=True)
class Limits:
    """How far an export may be from the model in float32.

    Attributes:
        features, logits: mean difference, in standard deviations.
        kept: least share of patches that both keep.
        answers: least share of answers that are the same, token for token.
    """

    features: float
    kept: float
    logits: float
    answers: float


# In 8 and 4 bits: with room above what scout and random models show (docs/export.md).
LIMITS = {
    "fp32": Limits(1e-4, 1.0, 1e-4, 1.0),
    "fp16": Limits(5e-3, 0.97, 1e-2, 0.9),
    "int8": Limits(5e-3, 0.97, 5e-2, 0.9),
    "int4": Limits(5e-3, 0.97, 0.25, 0.7),
}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: is compared.
        found: the worst image's figure, or the share over all.
        allowed: the most or the least of it.
        agrees: whether it is within that.
        unit: what the figures count.
    """

    what: str
    found: float
    allowed: float
    agrees: bool
    unit: str


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        model, precision: of the export.
        reference: precision of the model in torch.
        images, questions: how many.
        rows: the table.
    """

    model: str
    precision: str
    reference: str
    images: int
    questions: int
    rows: tuple[Row, ...]

    @property
    def agrees(self) -> bool:
        """The verdict."""
        return all(row.agrees for row in self.rows)


def verify(
    folder: Path,
    images: Sequence[np.ndarray],
    questions: Sequence[str],
    *,
    selector: str = "",
    visual_tokens: int = 0,
    reference: str = "auto",
    threads: int = 0,
    on_progress: Callable[[str, int, int], object] | None = None,
) -> Report:
    """Compare an export with the model that it was made of.

    Args:
        folder: of the export.
        images: uint8 [H, W, 3], RGB.
        questions: each is asked about every image.
        selector, visual_tokens: for what is kept; "" and 0: as the manifest says.
        reference: precision of the model in torch; auto: fp32 if it fits into memory, else the
            export's own.
        threads: of onnxruntime; 0: as many as cores.
        on_progress: is told what is compared, images done, images in all.

    Raises:
        UserError: the export is damaged; its model is not on this machine any more; nothing is
            given to compare.
    """
    from svd_vlm_ros.export import check_installed

    check_installed("onnxruntime")
    if not images or not questions:
        raise UserError("Nothing is given to compare: name an image and a question.")
    if on_progress is not None:
        on_progress("reading", 0, len(images))
    sessions = Sessions(folder, threads)
    manifest = sessions.manifest
    chosen = _selector(selector or manifest.defaults["selector"])
    precision = reference if reference != "auto" else _reference(manifest)
    loaded = models.load(manifest.model, precision=precision, device="cpu")
    sides = _Sides(sessions, loaded, chosen, visual_tokens or manifest.defaults["visual_tokens"])
    for number, image in enumerate(images):
        sides.compare(image, questions)
        if on_progress is not None:
            on_progress("comparing", number + 1, len(images))
    limits = _limits(manifest)
    rows = (
        _most("features", max(sides.features), limits.features, "std of the features"),
        _most("CLS attention", max(sides.attention), limits.features, "std of the attention"),
        _most("keys", max(sides.keys), limits.features, "std of the keys"),
        _least(f"patches kept by {chosen.name}", min(sides.kept), limits.kept),
        _most("visual tokens", max(sides.tokens), limits.features, "std of the tokens"),
        _most("logits", max(sides.logits), limits.logits, "std of the logits"),
        _least("same answers", float(np.mean(sides.answers)), limits.answers),
    )
    counts = len(images), len(questions)
    return Report(manifest.model, manifest.precision, precision, *counts, rows)


class _Sides:
    """Both runtimes, and what was found of each image."""

    def __init__(
        self, sessions: Sessions, loaded: LoadedModel, selector: FeatureSelector, kept: int
    ) -> None:
        self._sessions, self._loaded, self._selector = sessions, loaded, selector
        self._budget = make_budget(kept, kept)
        self._encoder, self._connector = loaded.encoder(), loaded.connector()
        self._language, self._prompt = loaded.language_model(), loaded.prompt(None)
        self.features: list[float] = []
        self.attention: list[float] = []
        self.keys: list[float] = []
        self.kept: list[float] = []
        self.tokens: list[float] = []
        self.logits: list[float] = []
        self.answers: list[float] = []

    @torch.inference_mode()
    def compare(self, image: np.ndarray, questions: Sequence[str]) -> None:
        """Look at an image by both and note how far they are apart."""
        processed = self._loaded.images(image, self._loaded.images.aspects[0])
        wanted = self._encoder(processed, frozenset({"class_attention", "keys"}))
        found = self._sessions.see(processed.pixels.float().numpy())
        self.features.append(_apart(found["patches"], wanted.patches))
        self.attention.append(_apart(found["class_attention"], wanted.class_attention))
        self.keys.append(_apart(found["keys"], wanted.keys))
        given: dict[str, Any] = {name: torch.from_numpy(value) for name, value in found.items()}
        ours = replace(wanted, **given)
        selection, other = self._selector(wanted, self._budget), self._selector(ours, self._budget)
        both = set(selection.indices.tolist()) & set(other.indices.tolist())
        self.kept.append(len(both) / max(len(selection), len(other)))
        visual = self._connector(wanted, selection).rows
        rows = wanted.patches[selection.indices].float().numpy()
        self.tokens.append(_apart(self._sessions.project(rows), visual))
        own = self._sessions.project(found["patches"][other.indices.numpy()])
        for question in questions:
            self._ask(question, visual, own)

    def _ask(self, question: str, visual: torch.Tensor, own: np.ndarray) -> None:
        sessions, before, after = self._sessions, self._prompt.before, self._prompt.after(question)
        shared = self._joined(visual.float().numpy(), after)
        last = sessions.read(shared, np.arange(len(shared)), sessions.empty(), [len(shared) - 1])
        self.logits.append(_apart(last[0][0], self._torch_logits(visual, after)))
        prefix = self._language.prefill(self._language.embed(before))
        prefix = self._language.extend(prefix, Tokens.in_order(visual))
        writer = self._language.write(prefix, [self._language.embed(after)], [LIMIT])
        written: list[int] = []
        while len(written) < LIMIT:
            token = writer.step([0])[0][0]
            if token in self._loaded.end_token_ids:
                break
            written.append(token)
        same = written == sessions.write(self._joined(own, after), LIMIT)
        self.answers.append(float(same))

    def _joined(self, visual: np.ndarray, after: Sequence[int]) -> np.ndarray:
        """The embeddings of a whole prompt, by onnxruntime's side."""
        embed = self._sessions.embed
        return np.concatenate([embed(self._prompt.before), visual, embed(after)])

    def _torch_logits(self, visual: torch.Tensor, after: Sequence[int]) -> torch.Tensor:
        """The last row's logits by transformers' own forward pass."""
        model: Any = self._loaded.model
        embed = self._language.embed
        rows = torch.cat([embed(self._prompt.before).rows, visual, embed(after).rows])
        hidden = model.model.language_model(inputs_embeds=rows[None], use_cache=False)
        logits: torch.Tensor = model.lm_head(hidden.last_hidden_state[0, -1:])[0]
        return logits


def _limits(manifest: Manifest) -> Limits:
    """What is allowed. Random weights are wider than trained ones, and the next token is a toss-up
    among many: rounded, they answer otherwise.
    """
    limits = LIMITS[manifest.precision]
    if not manifest.random_weights or manifest.precision == "fp32":
        return limits
    return replace(limits, logits=2 * limits.logits, answers=0.0)


def _selector(name: str) -> FeatureSelector:
    """A selector that looks at the image alone. Raises `UserError` for another."""
    made = make_selector(name)
    if isinstance(made, LayerSelector) or made.needs & QUESTION_NEEDS or "encoder" in made.needs:
        raise UserError(f"'{name}' does not choose by the features alone: take svd or svd-cover.")
    return made


def _reference(manifest: Manifest) -> str:
    """The precision of torch's side."""
    sizes = models.find_sizes(manifest.model)
    free = available_memory()
    if free is None or sizes.weights * 4 < free * 0.8:
        return "fp32"
    return manifest.precision if manifest.precision in PRECISIONS[1:] else "bf16"


def _apart(found: np.ndarray, wanted: torch.Tensor | None) -> float:
    """The mean difference in standard deviations; infinite if something is not a number."""
    assert wanted is not None
    other = wanted.float().numpy()
    if found.shape != other.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - other).mean() / other.std())


def _most(what: str, found: float, allowed: float, unit: str) -> Row:
    return Row(what, found, allowed, found <= allowed, f"mean difference, {unit}")


def _least(what: str, found: float, allowed: float) -> Row:
    return Row(what, found, allowed, found >= allowed, "share")
