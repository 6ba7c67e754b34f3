# SPDX-License-Identifier: Apache-2.0
"""Second stage: the language model learns to answer from labels, before there are features to
answer from.

An `Oracle` writes each patch's true attributes as the token that a perfect tower and projector
would give. No image is drawn and no tower computed, so a scene costs a hundredth of its usual
price; and the third stage has an exact target for the projector.

Two things make what is learned fit for selection. Most batches show a subset of the tokens (16 to
400), drawn by random scores that depend on the content (a random projection of the attributes plus
noise, at a random temperature, uniform ones among them), so that the model is trained for no
selector in particular. And labels are blurred at random, since a real tower is sometimes wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ..architecture import EOS, LANGUAGE_WIDTH, words
from ..labels import ATTRIBUTES, CLASSES, GROUPS, MEASURED, PATCHES, SHOWN, attributes, patch_labels
from ..questions import QUESTION_KINDS
from ..world import COLORS, GROUNDS, SIDES, SKIES, WorldScene, sample_scene
from .asked import ASKED, IGNORED, Asked, AskedBatch, Writer, choose_questions, collate_asked
from .common import Part, Run, load_modules, train, training_seed

SCENES = 16  # a batch
FEWEST, MOST = 16, 400  # tokens of a subset
WHOLE = 0.1  # share of the batches that see all 576; the last stage's is larger
# Share of the batches that show one patch of each object, from the stage's begin to its end: a long
# answer's order is learnt there, at a quarter of the price, and then kept with many patches.
EASY = (0.7, 0.2)


class Oracle(nn.Module):
    """The token of a patch from its true attributes: [..., ATTRIBUTES] to [..., 256]. Training
    only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.write = nn.Linear(ATTRIBUTES, LANGUAGE_WIDTH)

    def forward(self, rows: Tensor) -> Tensor:
        """Attributes [..., ATTRIBUTES] to tokens [..., 256]."""
        return self.write(rows)

    @torch.no_grad()
    def begin_with_words(self, embedding: Tensor) -> None:
        """A patch of a red car begins as the sum of the words "red" and "car", so a question finds
        it by its words.
        """
        ids = {word: i for i, word in enumerate(words())}
        # A sign's first digit too: the model has just written it when it looks for the second one.
        digits = [str(digit) for digit in range(10)]
        names = [*SHOWN, *COLORS, None, *SIDES, None, None, None, None, *digits]
        self.write.weight[:] = torch.randn_like(self.write.weight) * embedding.std() * 0.7
        for column, name in enumerate(names):
            if name in ids:
                self.write.weight[:, column] = embedding[ids[name]]
        start = sum(count for _, count in GROUPS[:6])
        for column, name in enumerate((*GROUNDS, None, *SKIES, None), start):
            if name in ids:
                self.write.weight[:, column] = embedding[ids[name]]
        self.write.bias.zero_()


class AskedScenes(IterableDataset):
    """An endless stream of (scene, its questions in one row)."""

    def __init__(self, seed: int, objects: tuple[int, int] = (1, 6)) -> None:
        self.seed = seed
        self.objects = objects

    def __iter__(self) -> Iterator[tuple[WorldScene, list[Asked]]]:
        info = get_worker_info()
        worker, step = (info.id if info else 0), 0
        writer = Writer()
        while True:
            seed = training_seed(worker + 2, step, self.seed)
            rng = np.random.default_rng((seed, 5))
            scene = sample_scene(seed, objects=self.objects, signs=0.3)
            yield scene, writer.row(choose_questions(scene, rng, ASKED))
            step += 1


def _collate(items: list[tuple[WorldScene, list[Asked]]]) -> tuple[Tensor, AskedBatch]:
    rows = np.stack([attributes(patch_labels(scene)) for scene, _ in items])
    return torch.from_numpy(rows), collate_asked([asked for _, asked in items])


def blur(rows: Tensor) -> Tensor:
    """Labels as an imperfect tower would give them: some classes mixed with others, measures with
    noise.
    """
    out = rows.clone()
    start = 0
    for _, count in GROUPS:
        part = rows[..., start : start + count]
        other = part.flatten(0, 1)[torch.randperm(part.shape[0] * part.shape[1])].view_as(part)
        draws = torch.rand(part.shape[:-1])[..., None]
        mixed = torch.where(draws < 0.06, torch.rand_like(draws), torch.zeros_like(draws))
        out[..., start : start + count] = torch.lerp(part, other, mixed)
        start += count
    out[..., CLASSES:] += torch.randn(*rows.shape[:-1], MEASURED) * 0.04
    return out


def random_subset(content: Tensor, count: int) -> Tensor:
    """`count` tokens of each scene by random scores that depend on the content. content [B, N, D]
    to int64 [B, count].
    """
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


def one_each(rows: Tensor) -> Tensor:
    """The middle patch of each object and some of the rest, 12 to 48 in all: int64 [B, count].

    With a short image that holds every answer, the model finds out in a fraction of the steps
    that a question's words are to be looked for in the image.
    """
    count = int(torch.randint(12, 49, ()))
    score = torch.rand(rows.shape[:2]) + 2.0 * rows[..., CLASSES - 1]
    return score.topk(count, dim=1).indices.sort(dim=1).values


def random_count(most: int = MOST, whole: float = 0.0) -> int:
    """A number of tokens from 16 to `most`, each octave as likely; all of them with the
    probability `whole`.
    """
    if torch.rand(()) < whole:
        return PATCHES
    low, high = np.log(FEWEST), np.log(most)
    return int(np.exp(low + float(torch.rand(())) * (high - low)))


def forward_asked(language: Part, head: Tensor, asked: AskedBatch) -> Tensor:
    """Hidden states of the questions, float [B, L, 256].

    head: [B, P, 256], prompt and image. Each question sees `head` and itself, at the positions
    that it would have alone, so a row is worth as many prompts. The layers are called one by one
    because a mask over the whole row would cost three times the work.
    """
    rows = torch.cat((head, language.embed_tokens(asked.ids).to(head.dtype)), dim=1)
    shared = head.shape[1]
    place = torch.arange(shared, device=rows.device).expand(rows.shape[0], -1)
    cos, sin = language.rotary_emb(rows, torch.cat((place, asked.position + shared), dim=1))
    masks = [_chunk_mask(part, shared) for part in asked.segment.split(asked.chunks, dim=1)]
    for layer in language.layers:
        inner = layer.input_layernorm(rows)
        rows = rows + _attend(layer.self_attn, inner, cos, sin, shared, asked.chunks, masks)
        rows = rows + layer.mlp(layer.post_attention_layernorm(rows))
    return language.norm(rows[:, shared:])


def _chunk_mask(segment: Tensor, shared: int) -> Tensor:
    """What the questions of a chunk see: all of the head, and what stands before them in their own
    question.
    """
    size = segment.shape[1]
    own = (segment[:, None, :] == segment[:, :, None]).tril()
    return F.pad(own, (shared, 0), value=True).view(-1, 1, size, shared + size)


def _attend(
    attention: Part,
    rows: Tensor,
    cos: Tensor,
    sin: Tensor,
    shared: int,
    chunks: tuple[int, ...],
    masks: list[Tensor],
) -> Tensor:
    split = (*rows.shape[:2], -1, attention.head_dim)
    query = attention.q_proj(rows).view(split).transpose(1, 2)
    key = attention.k_proj(rows).view(split).transpose(1, 2)
    value = attention.v_proj(rows).view(split).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, cos.to(query.dtype), sin.to(query.dtype))
    head_q, *part_q = query.split((shared, *chunks), dim=2)
    head_k, *part_k = key.split((shared, *chunks), dim=2)
    head_v, *part_v = value.split((shared, *chunks), dim=2)
    seen = [F.scaled_dot_product_attention(head_q, head_k, head_v, is_causal=True)]
    for q, k, v, mask in zip(part_q, part_k, part_v, masks, strict=True):
        all_k, all_v = torch.cat((head_k, k), dim=2), torch.cat((head_v, v), dim=2)
        seen.append(F.scaled_dot_product_attention(q, all_k, all_v, attn_mask=mask))
    return attention.o_proj(torch.cat(seen, dim=2).transpose(1, 2).flatten(2))


def answer_loss(
    model: Part, tokens: Tensor, asked: AskedBatch, prefix: list[int]
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the answers, and the share of right answer tokens a kind. tokens: [B, K,
    256] visual tokens.
    """
    language = model.model.language_model
    start = language.embed_tokens(torch.tensor(prefix, device=tokens.device))
    head = torch.cat((start.expand(len(tokens), -1, -1), tokens.to(start.dtype)), dim=1)
    with torch.autocast(tokens.device.type, torch.bfloat16):
        hidden = forward_asked(language, head, asked)
        wanted = asked.target != IGNORED
        logits = model.lm_head(hidden[wanted]).float()
    target, kind = asked.target[wanted], asked.kind[wanted]
    each = F.cross_entropy(logits, target, reduction="none")
    content = target != EOS
    right = logits.argmax(1) == target
    figures = {
        name: right[content & (kind == i)].float().mean().item()
        for i, name in enumerate(QUESTION_KINDS)
        if (content & (kind == i)).any()
    }
    return each.mean(), figures


def new_oracle(model: Part) -> Oracle:
    """An oracle and word vectors that fit each other, for a model that knows nothing yet."""
    oracle = Oracle()
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight.normal_(0, 0.2)
    oracle.begin_with_words(model.model.language_model.embed_tokens.weight)
    return oracle


def train_language(model: Part, oracle: Oracle, run: Run) -> None:
    """Trains `model`'s language model and the oracle that it answers from."""
    oracle.to(run.device), model.to(run.device)
    prefix = Writer().prefix

    def step(batch: tuple[Tensor, AskedBatch], share: float) -> tuple[Tensor, dict[str, float]]:
        rows, asked = batch
        easy = torch.rand(()) < EASY[0] + (EASY[1] - EASY[0]) * share
        keep = one_each(rows) if easy else random_subset(rows, random_count(MOST, WHOLE))
        kept = blur(rows).gather(1, keep[..., None].expand(-1, -1, rows.shape[-1]))
        return answer_loss(model, oracle(kept.to(run.device)), asked.to(run.device), prefix)

    batches = iter(
        DataLoader(
            AskedScenes(run.seed), batch_size=SCENES, collate_fn=_collate, num_workers=run.workers
        )
    )
    modules = language_modules(model, oracle)
    train("language", run, modules, dict.fromkeys(modules, 0.001), batches, step)


def language_modules(model: Part, oracle: Oracle) -> dict[str, nn.Module]:
    """What the stage trains, by the names in its checkpoint."""
    return {"language": model.model.language_model, "head": model.lm_head, "oracle": oracle}


def load_language(model: Part, run: Run) -> Oracle:
    """The stage's weights into `model`; returns its oracle."""
    oracle = Oracle()
    load_modules(run.path("language"), language_modules(model, oracle))
    return oracle
