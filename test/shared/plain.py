# SPDX-License-Identifier: Apache-2.0
"""A slow, plain reading of the methods inside the language model, for the tests.

No cache, no SDPA, no batch: for each token that is written, transformers' own layers read the whole
conversation again in eager attention, and between two of them the visual tokens are dropped by a
rule that is written with loops over single numbers.
"""

import math
from dataclasses import dataclass, field

import torch


@dataclass
class Reading:
    """What one reading of the conversation did."""

    logits: torch.Tensor
    layer_tokens: list[int] = field(default_factory=list)
    patches: list[int] = field(default_factory=list)


class PlainReader:
    """Reads [before; visual; text] with a rule that drops visual tokens.

    `rule(view)` is called in front of the layers in `stages`: {layer: tokens that may stay}. It
    returns the places that stay, ascending, and a list of (representative, places to average) for
    tokens that come back. Decisions are made at the first reading and repeated in the others.
    """

    def __init__(self, model, rule, stages, renumber, attention):
        self.model, self.rule, self.stages = model, rule, stages
        self.renumber, self.attention = renumber, attention
        self.decided = {}

    def read(self, before, visual, text, prompt_text):
        """Read rows; `prompt_text` of the text rows are the question, the others the answer."""
        language = self.model.model.language_model
        kept = language.config._attn_implementation
        language.config._attn_implementation = "eager"
        weights = []
        hooks = [
            layer.self_attn.register_forward_hook(lambda _, __, out: weights.append(out[1]))
            for layer in language.layers
        ]
        try:
            return self._read(language, weights, before, visual, text, prompt_text)
        finally:
            language.config._attn_implementation = kept
            for hook in hooks:
                hook.remove()

    def _read(self, language, weights, before, visual, text, prompt_text):
        hidden = torch.cat([before, visual, text])
        positions = list(range(len(hidden)))
        patches = list(range(len(visual)))
        found = Reading(hidden)
        for index, layer in enumerate(language.layers):
            if index in self.stages:
                if index not in self.decided:
                    if self.attention == "next":
                        self._run(language, layer, hidden, positions)
                    end = len(before) + len(patches) + prompt_text
                    view = {
                        # mean over heads, [row][visual place]
                        "weights": mean_of_heads(weights[-1][0], len(before), len(patches), end),
                        "visual": hidden[len(before) : len(before) + len(patches)],
                        "embedded": (visual, text[:prompt_text]),
                        "keep": self.stages[index],
                        "first": len(before),
                        "end": end,
                    }
                    self.decided[index] = self.rule(view)
                stay, back = self.decided[index]
                now = hidden[len(before) : len(before) + len(patches)]
                rows = [now[i] for i in stay]
                for _, places in back:
                    total = now[places[0]].clone()
                    for place in places[1:]:
                        total += now[place]
                    rows.append(total / len(places))
                tail = hidden[len(before) + len(patches) :]
                where = [len(before) + i for i in [*stay, *(centre for centre, _ in back)]]
                behind = positions[len(before) + len(patches) :]
                positions = [
                    *positions[: len(before)],
                    *(positions[i] for i in where),
                    *behind,
                ]
                patches = [patches[i - len(before)] for i in where]
                hidden = torch.cat([before_rows(hidden, before), torch.stack(rows), tail])
                if self.renumber:
                    positions = list(range(len(hidden)))
            found.layer_tokens.append(len(patches))
            hidden = self._run(language, layer, hidden, positions)
        found.logits = self.model.lm_head(language.norm(hidden))[-1]
        found.patches = sorted(patches)
        return found

    @staticmethod
    def _run(language, layer, hidden, positions):
        places = torch.tensor([positions])
        turned = language.rotary_emb(hidden[None], places)
        causal = torch.full((len(hidden), len(hidden)), -torch.inf).triu(1)
        return layer(hidden[None], attention_mask=causal[None, None], position_embeddings=turned)[0]

    def answer(self, before, visual, question, length, ends):
        """Greedy tokens, the layers' visual tokens and the kept patches of the first reading."""
        language = self.model.model.language_model
        text, tokens, first = question, [], None
        while len(tokens) < length:
            found = self.read(before, visual, text, len(question))
            first = first or found
            token = int(found.logits.argmax())
            if token in ends:
                break
            tokens.append(token)
            text = torch.cat([text, language.embed_tokens(torch.tensor([token]))])
        return tuple(tokens), tuple(first.layer_tokens), first.patches


def before_rows(hidden, before):
    return hidden[: len(before)]


def mean_of_heads(weights, first, count, end):
    """[row][visual place] from weights [heads, n, n], rows from the first visual token on."""
    rows = weights[:, first:end, first : first + count].tolist()
    heads = len(rows)
    return [
        [sum(rows[h][r][c] for h in range(heads)) / heads for c in range(count)]
        for r in range(end - first)
    ]


def top(scores, keep):
    """The places of the highest scores, ascending; of equal ones the lower place."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(order[:keep])


def last_token(view):
    """FastV and PyramidDrop: what the last token of the prompt looks at."""
    return top(view["weights"][-1], view["keep"]), []


def atp(balance, mass):
    """ATP: text and image vote, and only the mass of the votes stays."""

    def rule(view):
        weights, count = view["weights"], len(view["visual"])
        text = weights[count:]
        inter = [sum(row[c] for row in text) / len(text) for c in range(count)]
        intra = []
        for c in range(count):
            seen_by = [weights[r][c] for r in range(c, count)]
            intra.append(sum(seen_by) / len(seen_by))
        scores = [
            balance * a + (1 - balance) * b
            for a, b in zip(to_unit(inter), to_unit(intra), strict=True)
        ]
        total, reached, keep = sum(scores), 0.0, 0
        for score in sorted(scores, reverse=True):
            reached, keep = reached + score, keep + 1
            if reached >= mass * total:
                break
        return top(scores, min(keep, view["keep"])), []

    return rule


def to_unit(values):
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def sparsevlm(kept_at):
    """SparseVLM; `kept_at` {number of visual tokens: how many of them stay}, recycled apart."""

    def rule(view):
        visual, text = (rows.tolist() for rows in view["embedded"])
        votes = [0.0] * len(text)
        for row in visual:
            products = [sum(a * b for a, b in zip(row, word, strict=True)) for word in text]
            largest = max(products)
            powers = [math.exp(product - largest) for product in products]
            for i, power in enumerate(powers):
                votes[i] += power / sum(powers) / len(visual)
        raters = [i for i, vote in enumerate(votes) if vote > sum(votes) / len(votes)]
        count = len(view["visual"])
        rows = [view["weights"][count + i] for i in raters]
        scores = [sum(row[c] for row in rows) / len(rows) for c in range(count)]
        stay = top(scores, kept_at[count])
        dropped = [i for i in range(count) if i not in stay]
        better = [
            dropped[i] for i in top([scores[i] for i in dropped], int(len(dropped) * 0.3) + 1)
        ]
        return stay, density_peaks(view["visual"].tolist(), better, len(better) // 10 + 1)

    return rule


def density_peaks(rows, places, count):
    """Clusters as (centre, its places), the centres ascending."""
    apart = [
        [math.dist(rows[i], rows[j]) / math.sqrt(len(rows[0])) for j in places] for i in places
    ]
    density = []
    for line in apart:
        near = sorted(line)[:5]
        density.append(math.exp(-sum(d * d for d in near) / len(near)))
    farthest = max(max(line) for line in apart)
    peak = []
    for i, own in enumerate(density):
        denser = [apart[i][j] for j, other in enumerate(density) if other > own]
        peak.append(own * min(denser, default=farthest))
    centres = top(peak, count)
    members = {centre: [centre] for centre in centres}
    for i in range(len(places)):
        if i not in members:
            members[min(centres, key=lambda c: (apart[i][c], c))].append(i)
    return [(places[c], sorted(places[i] for i in members[c])) for c in centres]
