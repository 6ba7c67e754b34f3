# SPDX-License-Identifier: Apache-2.0
"""Each method against a slow, plain reading of its rule, written out again here in loops.

Nothing is shared with the package: lists of Python floats in, lists of patches (and of merged rows)
out. Ties do not occur in random images; who wins them is tested in `test_invariants.py`.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from svd_vlm_ros.selection import Budget, make_selector
from svd_vlm_ros.selection.tokens import token_rows

GRID = (4, 6)
COUNT = 24
BUDGETS = (1, 2, 5, 12, 23, 24)
SEEDS = (0, 1, 2)


def rows(tensor):
    return tensor.double().tolist()


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cos(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def best(candidates, value):
    """The candidate of highest value; the first of equal ones."""
    found = None
    for candidate in candidates:
        if found is None or value(candidate) > value(found):
            found = candidate
    return found


def total(vectors, weights):
    return [
        sum(w * v[d] for v, w in zip(vectors, weights, strict=True)) for d in range(len(vectors[0]))
    ]


def looks(features):
    heads = rows(features.class_attention)
    return [sum(head[i] for head in heads) for i in range(COUNT)]


def kept(name, features, budget, **options):
    return make_selector(name, **options)(features, Budget(budget))


cases = pytest.mark.parametrize(
    ("seed", "budget"), [(seed, budget) for seed in SEEDS for budget in BUDGETS]
)


@cases
def test_hired(make_features, seed, budget):
    features = make_features(seed, GRID)
    worth = looks(features)
    wanted = sorted(sorted(range(COUNT), key=lambda i: -worth[i])[:budget])
    assert kept("hired", features, budget).indices.tolist() == wanted


@pytest.mark.parametrize("classes", [1, 0])
@cases
def test_visionzip(make_features, seed, budget, classes):
    features = make_features(seed, GRID)
    if not classes:
        features = replace(features, class_token=None, class_key=None)
    chosen = kept("visionzip", features, budget)
    patches, keys, worth = rows(features.patches), rows(features.keys), looks(features)
    order = sorted(range(COUNT), key=lambda i: -worth[i])
    if budget >= COUNT:
        tokens = {i: patches[i] for i in range(COUNT)}
    else:
        contextual = budget * 5 // 32
        dominant = order[: budget - contextual - classes]
        tokens = {i: patches[i] for i in dominant}
        rest = [i for i in range(COUNT) if i not in dominant]
        targets = []
        if contextual:
            step = len(rest) // contextual
            targets = [rest[number * step] for number in range(contextual)]
        others = [i for i in rest if i not in targets]
        groups = {target: [] for target in targets}
        for i in others if targets else []:
            groups[best(targets, lambda t, i=i: cos(keys[i], keys[t]))].append(i)
        for target, group in groups.items():
            mean = total([patches[i] for i in group], [1 / len(group)] * len(group)) if group else 0
            tokens[target] = (
                [a + b for a, b in zip(patches[target], mean, strict=True)]
                if group
                else patches[target]
            )
        if classes:
            tokens[best(sorted(others), lambda i: worth[i])] = rows(features.class_token[None])[0]
    assert chosen.indices.tolist() == sorted(tokens)
    wanted = torch.tensor([tokens[i] for i in sorted(tokens)])
    torch.testing.assert_close(token_rows(features, chosen), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("budget", "dominant", "contextual"), [(64, 54, 10), (128, 108, 20), (192, 162, 30)]
)
def test_visionzip_splits_its_tokens_as_the_paper_does(make_features, budget, dominant, contextual):
    merge = kept("visionzip", make_features(3, (24, 24)), budget).merge.to_dense()
    several = int(((merge != 0).sum(dim=1) > 1).sum())
    assert several == contextual
    assert len(merge) - several == dominant
    assert int((merge[:, 0] != 0).sum()) == 1  # CLS, among the dominant ones


@pytest.mark.parametrize("space", ["clip", "words"])
@cases
def test_trim(make_features, seed, budget, space):
    features = make_features(seed, GRID, space=space)
    chosen = kept("trim", features, budget, relevance=space)
    patches, sign = rows(features.patches), -1 if space == "clip" else 1
    text, common = rows(features.image_text.text)[0], rows(features.image_text.patches)
    worth = [math.exp(sign * dot(common[i], text)) for i in range(COUNT)]
    worth = [w / sum(worth) for w in worth]
    order = sorted(range(COUNT), key=lambda i: -worth[i])
    tokens = {i: patches[i] for i in order[: budget if budget >= COUNT else budget - 1]}
    if budget < COUNT:
        rest = order[budget - 1 :]
        tokens[rest[0]] = total([patches[i] for i in rest], [1 / len(rest)] * len(rest))
    assert chosen.indices.tolist() == sorted(tokens)
    wanted = torch.tensor([tokens[i] for i in sorted(tokens)])
    torch.testing.assert_close(token_rows(features, chosen), wanted, atol=1e-5, rtol=1e-5)
    assert chosen.scores.tolist() == pytest.approx(worth, abs=1e-6)


@cases
def test_divprune(make_features, seed, budget):
    features = make_features(seed, GRID)
    projected = rows(features.projected)
    far = [[1 - cos(a, b) for b in projected] for a in projected]
    everyone = range(COUNT)
    chosen = [best(everyone, lambda i: min(far[i][j] for j in everyone if j != i))]
    while len(chosen) < budget:
        left = [i for i in everyone if i not in chosen]
        chosen.append(best(left, lambda i: min(far[i][j] for j in chosen)))
    assert kept("divprune", features, budget).indices.tolist() == sorted(chosen)


def covering(budget, gain):
    chosen = []
    while len(chosen) < budget:
        left = [j for j in range(COUNT) if j not in chosen]
        chosen.append(best(left, lambda j: gain(chosen, j)))
    return sorted(chosen)


@cases
def test_scope(make_features, seed, budget):
    features = make_features(seed, GRID)
    patches, worth = rows(features.patches), looks(features)
    like = [[cos(a, b) for b in patches] for a in patches]

    def gain(chosen, j):
        covered = [max([0.0, *(like[i][c] for c in chosen)]) for i in range(COUNT)]
        return worth[j] * sum(max(0.0, like[i][j] - covered[i]) for i in range(COUNT))

    assert kept("scope", features, budget).indices.tolist() == covering(budget, gain)


@cases
def test_mmtok(make_features, seed, budget):
    features = make_features(seed, GRID)
    patches, projected = rows(features.patches), rows(features.projected)

    def softmax(values, temperature):
        powers = [math.exp(value / temperature) for value in values]
        return [power / sum(powers) for power in powers]

    table = [softmax([cos(word, p) for p in projected], 0.02) for word in rows(features.question)]
    table += [[0.5 * q for q in softmax([cos(a, b) for b in patches], 0.2)] for a in patches]

    def gain(chosen, j):
        return sum(max(row[c] for c in [*chosen, j]) for row in table)

    assert kept("mmtok", features, budget).indices.tolist() == covering(budget, gain)


@pytest.mark.parametrize("space", ["clip", "words"])
@pytest.mark.parametrize(("seed", "budget"), [(seed, b) for seed in SEEDS for b in (1, 2, 5, 12)])
def test_cdpruner(make_features, seed, budget, space):
    features = make_features(seed, GRID, space=space)
    patches, sign = rows(features.patches), -1 if space == "clip" else 1
    text, common = rows(features.image_text.text)[0], rows(features.image_text.patches)
    worth = [sign * dot(p, text) for p in common]
    worth = [(w - min(worth)) / (max(worth) - min(worth)) for w in worth]
    kernel = [
        [worth[i] * cos(patches[i], patches[j]) * worth[j] for j in range(COUNT)]
        for i in range(COUNT)
    ]

    def volume(chosen, j):
        places = [*chosen, j]
        return np.linalg.det(np.array([[kernel[a][b] for b in places] for a in places]))

    chosen = kept("cdpruner", features, budget, relevance=space)
    assert chosen.indices.tolist() == covering(budget, volume)


@cases
def test_vispruner(make_features, seed, budget):
    features = make_features(seed, GRID)
    patches, worth = rows(features.patches), looks(features)
    important = sorted(range(COUNT), key=lambda i: -worth[i])[: budget // 2]
    left = [i for i in range(COUNT) if i not in important]
    while len(left) > budget - budget // 2:
        even, odd = left[::2], left[1::2]
        like = {i: max([cos(patches[i], patches[j]) for j in odd], default=-1.0) for i in even}
        drop = sorted(even, key=lambda i: -like[i])[: min(8, len(left) - budget + budget // 2)]
        left = [i for i in left if i not in drop]
    wanted = sorted(important + left) if budget < COUNT else list(range(COUNT))
    assert kept("vispruner", features, budget).indices.tolist() == wanted


@pytest.mark.parametrize("options", [{}, {"centre": True}, {"rank_energy": 0.5}])
@cases
def test_svd_pivoted(make_features, seed, budget, options):
    features = make_features(seed, GRID)
    full = features.patches.double().numpy()
    if options.get("centre"):
        full = full - full.mean(axis=0)
    u, s, _ = np.linalg.svd(full, full_matrices=False)
    k = int(np.argmax(np.cumsum(s**2) >= options.get("rank_energy", 0.9) * np.sum(s**2))) + 1

    def stands_out(matrix, chosen, j):
        if not chosen:
            return np.linalg.norm(matrix[j])
        basis = matrix[chosen].T
        weights = np.linalg.lstsq(basis, matrix[j], rcond=None)[0]
        return np.linalg.norm(matrix[j] - basis @ weights)

    chosen = []
    rank = np.linalg.matrix_rank(full)
    while len(chosen) < budget:
        left = [j for j in range(COUNT) if j not in chosen]
        if len(chosen) < min(k, rank):
            chosen.append(best(left, lambda j: stands_out(u[:, :k], chosen, j)))
        elif len(chosen) < rank:
            chosen.append(best(left, lambda j: stands_out(full, chosen, j)))
        else:
            chosen.append(best(left, lambda j: float((u[j, :k] ** 2).sum())))
    assert kept("svd-pivoted", features, budget, **options).indices.tolist() == sorted(chosen)


def tome_by_hand(features, budget):
    """Token merging with loops: a token is a dict of its row, its size, its patches, its place."""
    hidden = features.encoder.hidden[0].double()
    layers = features.encoder.layers
    valid = features.valid_indices().tolist()
    tokens = [{"row": hidden[0], "of": [], "at": -2}]
    tokens += [
        {"row": hidden[1 + i], "of": [i], "at": i if i in valid else -1} for i in range(COUNT)
    ]
    lose = max(len(valid) - budget, 0)
    for number, layer in enumerate(layers):
        attention = layer.self_attn.double()
        layer.double()
        size = attention.head_dim
        normed = [layer.layer_norm1(token["row"]) for token in tokens]
        queries, keys, values = (
            [part(row).view(attention.num_heads, size) for row in normed]
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        seen = []
        for i in range(len(tokens)):
            heads = []
            for h in range(attention.num_heads):
                powers = [
                    max(len(tokens[j]["of"]), 1)
                    * math.exp(float(queries[i][h] @ keys[j][h]) / math.sqrt(size))
                    for j in range(len(tokens))
                ]
                heads.append(sum(p * values[j][h] for j, p in enumerate(powers)) / sum(powers))
            seen.append(attention.out_proj(torch.cat(heads)))
        for token, row, key in zip(tokens, seen, keys, strict=True):
            token["row"] = token["row"] + row
            token["key"] = key.mean(dim=0)
        now = lose // len(layers) + (number < lose % len(layers))
        while now:
            free = [token for token in tokens if token["at"] >= 0]
            even, odd = free[::2], free[1::2]
            pairs = []
            for a in even:
                b = best(odd, lambda t, a=a: cos(a["key"].tolist(), t["key"].tolist()))
                pairs.append((cos(a["key"].tolist(), b["key"].tolist()), a, b))
            pairs.sort(key=lambda pair: -pair[0])
            step = min(now, len(even))
            for _, a, b in pairs[:step]:
                both = len(a["of"]) + len(b["of"])
                for part in ("row", "key"):
                    b[part] = (len(a["of"]) * a[part] + len(b["of"]) * b[part]) / both
                b["of"] = a["of"] + b["of"]
                tokens = [token for token in tokens if token is not a]
            now -= step
        for token in tokens:
            token["row"] = token["row"] + layer.mlp(layer.layer_norm2(token["row"]))
        layer.float()
    return [token for token in tokens if token["at"] >= 0]


@pytest.mark.parametrize("budget", [1, 3, 8, 17, 23, 24])
@pytest.mark.parametrize("padded", [False, True])
def test_tome(make_features, budget, padded):
    valid = None
    if padded:
        valid = torch.ones(GRID, dtype=torch.bool)
        valid[0], valid[3] = False, False
        valid = valid.flatten()
    features = make_features(4, GRID, valid=valid)
    with torch.no_grad():
        wanted = tome_by_hand(features, budget)
        chosen = kept("tome", features, budget)
    assert chosen.indices.tolist() == [token["at"] for token in wanted]
    if chosen.features is None:
        assert budget >= len(features.valid_indices())
        return
    torch.testing.assert_close(
        chosen.features,
        torch.stack([token["row"] for token in wanted]).float(),
        atol=1e-4,
        rtol=1e-4,
    )
    merge = chosen.merge.to_dense()
    for row, token in zip(merge, wanted, strict=True):
        assert row.nonzero().flatten().tolist() == sorted(1 + i for i in token["of"])
        assert float(row.sum()) == pytest.approx(1.0)


def test_tome_gives_every_patch_the_row_of_its_token(make_features):
    features = make_features(5, GRID)
    selector = make_selector("tome")
    patches, chosen = selector.encode(features.encoder, GRID, None, Budget(7))
    assert torch.equal(patches[chosen.indices], chosen.features)
    members = chosen.merge.to_dense()[:, 1:] > 0
    for token in range(7):
        for patch in members[token].nonzero().flatten().tolist():
            assert torch.equal(patches[patch], chosen.features[token])


def test_tome_without_anything_to_merge_is_the_encoder_itself(make_features):
    features = make_features(6, GRID)
    patches, chosen = make_selector("tome").encode(features.encoder, GRID, None, Budget(COUNT))
    hidden = features.encoder.hidden
    for layer in features.encoder.layers:
        hidden = layer(hidden, None)
    torch.testing.assert_close(patches, hidden[0, 1:], atol=1e-5, rtol=1e-5)
    assert chosen.indices.tolist() == list(range(COUNT))
    assert chosen.features is None
