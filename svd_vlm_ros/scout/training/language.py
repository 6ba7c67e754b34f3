# SPDX-License-Identifier: Apache-2.0
"""Second stage: the language model learns to answer from labels, before there are features to answer from.

An `Oracle` writes each patch's true attributes as the token that a perfect tower and projector would give. No picture is
drawn and no tower computed, so a scene costs a hundredth of its usual price; and the third stage has something exact to
pull the projector towards.

Two things make what is learned fit for selection. Most batches show a subset of the tokens (16 to 400), drawn by random
scores that depend on the content (a random projection of the attributes plus noise, at a random temperature, uniform
ones among them), so that no selector's taste is the one trained for. And labels are blurred at random, since a real
tower is sometimes wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..architecture import BOS, EOS, LANGUAGE_WIDTH, tokenizer, words
from ..labels import ATTRIBUTES, CLASSES, GROUPS, MEASURED, PATCHES, SHOWN, attributes, patch_labels
from ..questions import QUESTION_KINDS, Question, questions
from ..world import COLORS, GROUNDS, SIDES, SKIES, WorldScene, sample_scene
from .common import Run, load_modules, train, training_seed

SCENES = 16  # a batch
ASKED = 20  # questions a scene, in one sequence
FEWEST, MOST = 16, 400  # tokens of a subset
ALL_TOKENS = 0.06  # share of the batches that see all 576
WEIGHT = {"left of": 2.0, "path": 1.5, "count": 1.5, "describe": 1.2, "sign": 2.0, "nearest": 1.5, "exists": 0.7}
IGNORED = -100


class Oracle(nn.Module):
    """The token of a patch from its true attributes: [..., ATTRIBUTES] to [..., 256]. Training only."""

    def __init__(self) -> None:
        super().__init__()
        self.write = nn.Linear(ATTRIBUTES, LANGUAGE_WIDTH)

    def forward(self, rows: Tensor) -> Tensor:
        return self.write(rows)

    @torch.no_grad()
    def begin_with_words(self, embedding: Tensor) -> None:
        """A patch of a red car begins as the sum of the words "red" and "car", so a question finds it by its words."""
        ids = {word: i for i, word in enumerate(words())}
        names = [*SHOWN, *COLORS, None, *SIDES, None]
        self.write.weight[:] = torch.randn_like(self.write.weight) * embedding.std() * 0.7
        for column, name in enumerate(names):
            if name in ids:
                self.write.weight[:, column] = embedding[ids[name]]
        start = sum(count for _, count in GROUPS[:6])
        for column, name in enumerate((*GROUNDS, None, *SKIES, None), start):
            if name in ids:
                self.write.weight[:, column] = embedding[ids[name]]
        self.write.bias.zero_()


@dataclass(frozen=True)
class Asked:
    """Questions of one scene as one row. All int64 [L]: ids, number of the question, its positions, and targets."""

    ids: np.ndarray
    segment: np.ndarray
    position: np.ndarray
    target: np.ndarray
    kind: np.ndarray


class Writer:
    """Questions and answers as token rows, in the prompt that the engine uses."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer()
        self.prefix = [BOS, *self.encode("USER:")]
        self.turn = self.encode("ASSISTANT:")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def row(self, asked: list[Question]) -> Asked:
        ids: list[int] = []
        segment: list[int] = []
        position: list[int] = []
        target: list[int] = []
        kind: list[int] = []
        for number, question in enumerate(asked, 1):
            prompt = self.encode(question.text) + self.turn
            answer = [*self.encode(question.answer), EOS]
            row = prompt + answer
            ids += row
            segment += [number] * len(row)
            position += range(len(row))
            target += [IGNORED] * (len(prompt) - 1) + answer + [IGNORED]
            kind += [QUESTION_KINDS.index(question.kind)] * len(row)
        return Asked(*(np.array(x, np.int64) for x in (ids, segment, position, target, kind)))


class AskedScenes(IterableDataset):
    """An endless stream of (scene, its questions in one row)."""

    def __init__(self, seed: int, objects: tuple[int, int] = (1, 6)) -> None:
        self.seed = seed
        self.objects = objects

    def __iter__(self) -> Iterator[tuple[WorldScene, Asked]]:
        info = get_worker_info()
        worker, step = (info.id if info else 0), 0
        writer = Writer()
        while True:
            seed = training_seed(worker + 2, step, self.seed)
            rng = np.random.default_rng((seed, 5))
            scene = sample_scene(seed, objects=self.objects, signs=0.08)
            yield scene, writer.row(choose_questions(scene, rng, ASKED))
            step += 1


def choose_questions(scene: WorldScene, rng: np.random.Generator, count: int) -> list[Question]:
    """`count` questions of the scene, the harder kinds more often; half of them without a question mark."""
    pool = [q for _ in range(3) for q in questions(scene, rng)]
    weight = np.array([WEIGHT.get(q.kind, 1.0) for q in pool])
    picks = rng.choice(len(pool), count, replace=False, p=weight / weight.sum())
    return [
        Question(q.kind, q.text.rstrip("?.") if rng.random() < 0.35 else q.text, q.answer)
        for q in (pool[i] for i in picks)
    ]


def collate_asked(rows: list[Asked]) -> dict[str, Tensor]:
    """Rows padded on the right to int64 [B, L]; padding has segment 0 and no target."""
    longest = max(len(row.ids) for row in rows)
    fill = {"ids": 0, "segment": 0, "position": 0, "target": IGNORED, "kind": 0}
    return {
        name: torch.from_numpy(
            np.stack(
                [
                    np.pad(getattr(row, name), (0, longest - len(row.ids)), constant_values=value)
                    for row in rows
                ]
            )
        )
        for name, value in fill.items()
    }


def _collate(items: list[tuple[WorldScene, Asked]]) -> tuple[Tensor, dict[str, Tensor]]:
    rows = np.stack([attributes(patch_labels(scene)) for scene, _ in items])
    return torch.from_numpy(rows), collate_asked([asked for _, asked in items])


def blur(rows: Tensor) -> Tensor:
    """Labels as an imperfect tower would give them: some classes mixed with others, measures with noise."""
    out = rows.clone()
    start = 0
    for _, count in GROUPS:
        part = rows[..., start : start + count]
        other = part.flatten(0, 1)[torch.randperm(part.shape[0] * part.shape[1])].view_as(part)
        chance = torch.rand(part.shape[:-1])[..., None]
        mixed = torch.where(chance < 0.06, torch.rand_like(chance), torch.zeros_like(chance))
        out[..., start : start + count] = torch.lerp(part, other, mixed)
        start += count
    out[..., CLASSES:] += torch.randn(*rows.shape[:-1], MEASURED) * 0.04
    return out


def random_subset(content: Tensor, count: int) -> Tensor:
    """`count` tokens of each scene by random scores that depend on the content. content [B, N, D] to int64 [B, count]."""
    batch, tokens, width = content.shape
    if count >= tokens:
        return torch.arange(tokens, device=content.device).expand(batch, -1)
    direction = torch.randn(batch, width, 1, device=content.device)
    score = (content.float() @ direction)[..., 0]
    score = (score - score.mean(1, keepdim=True)) / (score.std(1, keepdim=True) + 1e-6)
    temperature = 10 ** (torch.rand(batch, 1, device=content.device) * 2.5 - 1.0)
    uniform = torch.rand(batch, 1, device=content.device) < 0.25
    noise = torch.randn(batch, tokens, device=content.device) * temperature
    score = torch.where(uniform, noise, score + noise)
    return score.topk(count, dim=1).indices.sort(dim=1).values


def random_count() -> int:
    """A number of tokens: all, or from 16 to 400 with each octave as likely."""
    if torch.rand(()) < ALL_TOKENS:
        return PATCHES
    low, high = np.log(FEWEST), np.log(MOST)
    return int(np.exp(low + float(torch.rand(())) * (high - low)))


def answer_loss(
    model: nn.Module, tokens: Tensor, asked: dict[str, Tensor], prefix: list[int]
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the answers, all questions of a scene in one sequence.

    tokens: [B, K, 256] visual tokens; asked: see `collate_asked`. Each question sees the prompt, the picture and itself,
    at the positions that it would have alone, so one sequence is worth as many prompts.
    """
    language = model.model.language_model
    batch, count, _ = tokens.shape
    embed = language.embed_tokens
    head = embed(torch.tensor(prefix, device=tokens.device)).expand(batch, -1, -1)
    rows = torch.cat((head, tokens.to(head.dtype), embed(asked["ids"])), dim=1)
    shared = len(prefix) + count
    length = rows.shape[1]
    segment = F.pad(asked["segment"], (shared, 0))
    place = torch.arange(length, device=rows.device)
    position = torch.cat(
        (place[:shared].expand(batch, -1), asked["position"] + shared), dim=1
    )
    causal = place[None, :] <= place[:, None]
    same = (segment[:, None, :] == segment[:, :, None]) | (place < shared)[None, None, :]
    seen = (causal & same)[:, None]
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16, device=rows.device)
    mask.masked_fill_(~seen, torch.finfo(torch.bfloat16).min)
    with torch.autocast(rows.device.type, torch.bfloat16):
        hidden = language(
            inputs_embeds=rows, attention_mask=mask, position_ids=position, use_cache=False
        ).last_hidden_state
        wanted = asked["target"] != IGNORED
        logits = model.lm_head(hidden[:, shared:][wanted]).float()
    target, kind = asked["target"][wanted], asked["kind"][wanted]
    weight = torch.where(kind == QUESTION_KINDS.index("describe"), 0.5, 1.0)
    each = F.cross_entropy(logits, target, reduction="none")
    right = (logits.argmax(1) == target) & (target != EOS)
    content = target != EOS
    figures = {
        name: right[content & (kind == i)].float().mean().item()
        for i, name in enumerate(QUESTION_KINDS)
        if (content & (kind == i)).any()
    }
    return (each * weight).sum() / weight.sum(), figures


def train_language(model: nn.Module, run: Run) -> Oracle:
    """Trains `model`'s language model and the oracle that it answers from."""
    oracle = Oracle()
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight.normal_(0, 0.2)
    oracle.begin_with_words(model.model.language_model.embed_tokens.weight)
    oracle.to(run.device), model.to(run.device)
    prefix = Writer().prefix

    def step(batch, share: float):
        rows, asked = batch
        asked = {name: x.to(run.device) for name, x in asked.items()}
        keep = random_subset(rows, random_count())
        kept = blur(rows).gather(1, keep[..., None].expand(-1, -1, rows.shape[-1]))
        return answer_loss(model, oracle(kept.to(run.device)), asked, prefix)

    batches = iter(
        DataLoader(
            AskedScenes(run.seed), batch_size=SCENES, collate_fn=_collate, num_workers=run.workers
        )
    )
    modules = language_modules(model, oracle)
    train("language", run, modules, {name: 1e-3 for name in modules}, batches, step)
    return oracle


def language_modules(model: nn.Module, oracle: Oracle) -> dict[str, nn.Module]:
    return {"language": model.model.language_model, "head": model.lm_head, "oracle": oracle}


def load_language(model: nn.Module, run: Run) -> Oracle:
    oracle = Oracle()
    load_modules(run.path("language"), language_modules(model, oracle))
    return oracle
