# SPDX-License-Identifier: Apache-2.0
"""Which rule should `svd-cover` be? Accuracy of scout's answers under several rules for choosing
patches, on scenes of the training side (never the held-out ones).

    python benchmark/cover_rules.py --scenes 128

Answers are read off one pass with the true answer as input (`scout.training.join.accuracy`), in
which the likeliest token is right everywhere exactly if greedy decoding would give that answer. So
a rule costs seconds and not minutes. `oracle` reads the labels: one patch in the middle of each
object, the rest by coverage. No selector can be expected to do better.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from svd_vlm_ros.evaluation.held_out import one_of_each
from svd_vlm_ros.scout.labels import CLASSES, attributes, patch_labels
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.training.common import pixel_values
from svd_vlm_ros.scout.training.export import shipped
from svd_vlm_ros.scout.training.language import IGNORED, Writer, collate_asked, forward_asked
from svd_vlm_ros.scout.training.vision import tower_features
from svd_vlm_ros.scout.world import sample_scene
from svd_vlm_ros.selection import Budget, VisualFeatures, make_selector
from svd_vlm_ros.selection.greedy import greedy_coverage

FIRST = 9_000_000  # the top of the training side; training's own seeds end far below
GROUP = 16
GRID = (24, 24)

Rule = Callable[[Tensor, Tensor, int], Tensor]
"""From features [576, 192], labels as attributes [576, n] and a number of tokens to patches."""


def selector(name: str, **options: object) -> Rule:
    made = make_selector(name, **options)
    return lambda rows, _, count: made(VisualFeatures(rows, GRID), Budget(count)).indices


def cosines(rows: Tensor) -> np.ndarray:
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return (unit @ unit.T).clamp(min=0).numpy()


def facility(similarity: Callable[[Tensor], np.ndarray]) -> Rule:
    return lambda rows, _, count: torch.tensor(greedy_coverage(similarity(rows), count)[0])


def distances(rows: Tensor, power: float) -> np.ndarray:
    far = torch.cdist(rows.double(), rows.double()) ** power
    return (far.max() - far).numpy()


def gaussian(rows: Tensor, gamma: float) -> np.ndarray:
    far = torch.cdist(rows.double(), rows.double())
    return torch.exp(-gamma * (far / far.median()) ** 2).numpy()


def oracle(rows: Tensor, labels: Tensor, count: int) -> Tensor:
    chosen = (labels[:, CLASSES - 1] > 0).nonzero().flatten()[:count].tolist()
    similarity = cosines(rows)
    covered = np.max([np.zeros(len(rows)), *(similarity[i] for i in chosen)], axis=0)
    while len(chosen) < count:
        gain = np.maximum(similarity - covered, 0).sum(axis=1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        covered = np.maximum(covered, similarity[chosen[-1]])
    return torch.tensor(chosen)


RULES: dict[str, Rule] = {
    "svd (SVD-Prune)": selector("svd"),
    "random": selector("random"),
    "grid": selector("grid"),
    "svd-pivoted": selector("svd-pivoted"),
    "coverage by cosine (beta 0)": selector("svd-cover", beta=0.0),
    "coverage by cosine^4": facility(lambda rows: cosines(rows) ** 4),
    "coverage by -distance": facility(lambda rows: distances(rows, 1.0)),
    "coverage by -distance^2": facility(lambda rows: distances(rows, 2.0)),
    "coverage by exp(-distance^2)": facility(lambda rows: gaussian(rows, 1.0)),
    "svd-cover, beta 0.3": selector("svd-cover"),
    "svd-cover, beta 0.3, ridge 3": selector("svd-cover", ridge=3.0),
    "svd-cover, beta 0.5": selector("svd-cover", beta=0.5),
    "svd-cover, beta 1": selector("svd-cover", beta=1.0),
    "oracle": oracle,
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scenes", type=int, default=128)
    parser.add_argument("--visual-tokens", default="192,64,32,16")
    options = parser.parse_args()
    counts = [int(n) for n in options.visual_tokens.split(",")]
    model, _ = shipped()
    model.eval()
    writer = Writer()
    language = model.model.language_model
    start = language.embed_tokens(torch.tensor(writer.prefix))

    scenes = [sample_scene(FIRST + i) for i in range(options.scenes)]
    asked = [one_of_each(scene) for scene in scenes]
    features, tokens = [], []
    for at in range(0, len(scenes), GROUP):
        images = np.stack([render(scene) for scene in scenes[at : at + GROUP]])
        with torch.autocast("cpu", torch.bfloat16):
            seen = tower_features(model.model.vision_tower, pixel_values(torch.tensor(images)))
            tokens += list(model.model.multi_modal_projector(seen.float()).float())
        features += list(seen.float())
    labels = [torch.from_numpy(attributes(patch_labels(scene))) for scene in scenes]

    def right(kept: list[Tensor]) -> float:
        good = total = 0
        for at in range(0, len(scenes), GROUP):
            here = range(at, min(at + GROUP, len(scenes)))
            most = max(len(asked[i]) for i in here)
            # Shorter rows repeat their questions; a repeated one is not counted.
            rows = [writer.row((asked[i] * most)[:most]) for i in here]
            batch = collate_asked(rows)
            shown = torch.stack([tokens[i][kept[i].sort().values] for i in here])
            head = torch.cat((start.expand(len(shown), -1, -1), shown), dim=1)
            with torch.autocast("cpu", torch.bfloat16):
                best = model.lm_head(forward_asked(language, head, batch)).argmax(-1)
            wrong = (best != batch.target) & (batch.target != IGNORED)
            for row in range(len(shown)):
                judged = set()
                for number, question in enumerate(rows[row], 1):
                    if (key := question.ids.tobytes()) not in judged:
                        judged.add(key)
                        total += 1
                        good += int(not wrong[row][batch.segment[row] == number].any())
        return 100 * good / total

    questions = sum(map(len, asked))
    everything = right([torch.arange(GRID[0] * GRID[1])] * len(scenes))
    print(f"{len(scenes)} scenes of the training side, {questions} questions; all tokens: ", end="")
    print(f"{everything:.1f} %\n\n| rule | " + " | ".join(map(str, counts)) + " |")
    print("|---" * (len(counts) + 1) + "|")
    for name, rule in RULES.items():
        shares = []
        for count in counts:
            pairs = zip(features, labels, strict=True)
            shares.append(f"{right([rule(rows, labeled, count) for rows, labeled in pairs]):.1f}")
        print(f"| {name} | " + " | ".join(shares) + " |", flush=True)


if __name__ == "__main__":
    main()
