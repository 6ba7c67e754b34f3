# SPDX-License-Identifier: Apache-2.0
"""What selectors cost, and how steady they are.

    python benchmark/selection.py [--threads 1,2,4] [--only svd-cover,svd] [--scenes 8]

Times are the best of several runs on random features of LLaVA-1.5's size (576 x 1024, projected to
4096), the selection alone; with one thread on a CPU the time that the process was running, which
what else runs on the machine hardly touches. `tome` is left out: its work is the tower's. Before
them what `svd-cover` and `svd` consist of, step by step. With `--only` nothing but that is measured
and only for these selectors, with `--device` the selectors on features of a GPU.

The steps are torch's linear algebra: MKL in the wheels for x86. With another library in its place
(Debian and Ubuntu: the package libopenblas0-openmp; the one with pthreads has threads of its own,
which wait for torch's):

    LD_PRELOAD=libopenblas.so.0 python benchmark/selection.py --threads 1,2 --only svd-cover,svd

The rows of `svd` with `warm_start` are the medians along streams: of features whose singular values
fall by a factor from one to the next and of which each image is new by a share (its amplitude),
and of scout's drive at a number of images a second; beside them how many of the images were
accepted, and the rank k.

Steadiness is the share of kept patches that change when the features of scout's held-out scenes
are rounded to float16. `trim` and `cdpruner` compare by words.
"""

import argparse
import ctypes
import re
import time
from dataclasses import replace
from functools import partial
from statistics import median

import torch

from svd_vlm_ros.cpu import cpu_class, cpu_name
from svd_vlm_ros.models.llava.loading import load_llava
from svd_vlm_ros.models.llava.preprocess import preprocess
from svd_vlm_ros.models.llava.vision import VisionTower
from svd_vlm_ros.models.relevance import word_relevance
from svd_vlm_ros.scout.drive import drive
from svd_vlm_ros.scout.render import render
from svd_vlm_ros.scout.world import HELD_OUT_SEEDS, sample_scene
from svd_vlm_ros.selection import Budget, Encoder, VisualFeatures, make_selector, selector_names
from svd_vlm_ros.selection.greedy import greedy_coverage
from svd_vlm_ros.selection.sets import gram, rows_of, to_cosines
from svd_vlm_ros.selection.svd import dominant_subspace
from svd_vlm_ros.selection.svd_cover import ridge_leverage

BUDGETS = (192, 64, 16)
ROUNDED = (
    "patches",
    "class_attention",
    "class_token",
    "keys",
    "class_key",
    "projected",
    "question",
)
NAMES = [name for name in selector_names("before") if name != "none"]
RUNS = 25
PRELOADED = ctypes.CDLL(None)  # the process's own symbols


def make(name):
    return make_selector(name, **({"relevance": "words"} if name in ("trim", "cdpruner") else {}))


def like_clip(device):
    """Random features with a strong mean and forty directions that most of the energy is in."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    patches = normal(576, 40) @ normal(40, 1024) + 0.5 * normal(576, 1024) + 5 * normal(1024)
    rows = {"keys": normal(576, 64), "projected": normal(576, 4096), "question": normal(12, 4096)}
    looks = normal(16, 577).softmax(dim=1)[:, 1:]
    features = VisualFeatures(
        patches.to(device),
        (24, 24),
        class_attention=looks.to(device),
        class_token=patches[0].to(device),
        **{name: values.to(device) for name, values in rows.items()},
    )
    return replace(features, image_text=word_relevance(features, features.question))


def linear_algebra():
    """Whose BLAS and LAPACK torch calls: a preloaded OpenBLAS takes the place of its own."""
    if hasattr(PRELOADED, "openblas_get_config"):
        PRELOADED.openblas_get_config.restype = ctypes.c_char_p
        return PRELOADED.openblas_get_config().decode()
    built = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return built[1] if built else "unknown"


def use_threads(count):
    torch.set_num_threads(count)
    if hasattr(PRELOADED, "openblas_set_num_threads"):
        PRELOADED.openblas_set_num_threads(count)


def milliseconds(call, device="cpu"):
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    best = float("inf")
    for _ in range(RUNS):
        begun = clock()
        call()
        best = min(best, clock() - begun)
    return 1e3 * best


def print_steps(features):
    rows = rows_of(features.patches.cpu(), features)
    products = gram(rows)
    coverage = to_cosines(products.clone()) / len(rows)
    steps = {
        "to float64": lambda: rows_of(features.patches, features).cpu(),
        "Gram matrix": lambda: gram(rows),
        "ridge leverage": lambda: ridge_leverage(products, 1.0),
        "cosines": lambda: to_cosines(products.clone()),
        "greedy coverage, 64 tokens": lambda: greedy_coverage(coverage, 64),
        "eigenvectors": lambda: torch.linalg.eigh(products),
    }
    for name, step in steps.items():
        print(f"  {name:27}{milliseconds(step):.1f}")


def choose(select, features, budget):
    return select(features, Budget(budget)).indices.cpu()


def print_selectors(names, features, device):
    for name in names:
        if name != "tome":
            calls = [partial(choose, make(name), features, budget) for budget in BUDGETS]
            times = [milliseconds(call, device) for call in calls]
            print(f"  {name:12}", " / ".join(f"{value:.1f}" for value in times))


def slowly_changing(decay, step, count=16):
    """Features of LLaVA-1.5's size, rounded to bfloat16; `decay` from one singular value on."""
    generator = torch.Generator().manual_seed(0)
    strength, stay = decay ** torch.arange(576), (1 - step**2) ** 0.5
    left = torch.randn(576, 576, generator=generator)
    right = torch.randn(576, 1024, generator=generator)
    for _ in range(count):
        yield VisualFeatures((left * strength @ right).bfloat16(), (24, 24))
        left = stay * left + step * torch.randn(576, 576, generator=generator)
        right = stay * right + step * torch.randn(576, 1024, generator=generator)


def driven(rate, count=16):
    loaded = load_llava("scout", precision="fp32", device="cpu")
    tower = VisionTower(loaded.model)
    for number in range(count):
        pixels = preprocess(render(drive(3 + number / rate)), loaded.images, "pad")
        yield tower(pixels, frozenset())


def along(stream, tokens=64):
    """Of `svd` along a stream: ms without and with warm start, and how many were accepted."""
    plain, warm = make_selector("svd"), make_selector("svd", warm_start=True)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken = {plain: [], warm: []}
    for features in stream:
        for select, times in taken.items():
            begun = clock()
            select(features, Budget(tokens)).indices.cpu()
            times.append(1e3 * (clock() - begun))
    rank = dominant_subspace(features.patches).shape[1]
    without, with_it = (median(times[1:]) for times in taken.values())
    return without, with_it, warm.warm, len(taken[warm]) - 1, rank


def print_streams():
    print("svd along streams, 64 tokens, CPU: ms without / with warm_start, ratio")
    streams = {
        f"x {decay}, {100 * step:g} % new": slowly_changing(decay, step)
        for decay in (0.95, 0.98, 0.985, 0.995)
        for step in (0.01, 0.2, 1)
    }
    streams |= {f"scout, {rate} a second": driven(rate) for rate in (30, 10, 1)}
    for name, stream in streams.items():
        without, with_it, warm, count, rank = along(stream)
        print(
            f"  {name:20} {without:.1f} / {with_it:.1f}, {without / with_it:.2f}; "
            f"{warm.accepted} of {count} accepted, {warm.fallen_back} fell back, k = {rank}"
        )


def seen_by_scout(count):
    loaded = load_llava("scout", precision="fp32", device="cpu")
    tower = VisionTower(loaded.model)
    asked = loaded.tokenizer("what colour is the car?", return_tensors="pt").input_ids[0]
    question = loaded.model.model.language_model.embed_tokens(asked)
    needs = frozenset({"class_attention", "keys", "projected", "encoder"})
    for seed in HELD_OUT_SEEDS[:count]:
        pixels = preprocess(render(sample_scene(seed)), loaded.images, "pad")
        features = replace(tower(pixels, needs), question=question)
        rounded = replace(
            features,
            encoder=Encoder(features.encoder.hidden.half().float(), features.encoder.layers),
            **{name: getattr(features, name).half().float() for name in ROUNDED},
        )
        yield tuple(
            replace(f, image_text=word_relevance(f, f.question)) for f in (features, rounded)
        )


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1")
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=8)
    options = parser.parse_args()
    features = like_clip(torch.device(options.device))
    print(f"{cpu_name()}: {cpu_class()}; linear algebra: {linear_algebra()}")
    counts = [int(count) for count in options.threads.split(",")]
    names = options.only.split(",") if options.only else NAMES
    for count in counts:
        use_threads(count)
        print(f"ms of the steps on the CPU, {count} thread(s)")
        print_steps(features)
        print(f"ms for {' / '.join(map(str, BUDGETS))} tokens, {options.device}")
        print_selectors(names, features, options.device)
    if options.only:
        return
    use_threads(counts[0])
    print_streams()
    if not options.scenes:
        return
    pairs = list(seen_by_scout(options.scenes))
    print(f"% of the kept patches that float16 changes, mean (worst) of {options.scenes} scenes")
    for name in NAMES:
        select, shown = make(name), []
        for budget in BUDGETS:
            changes = []
            for pair in pairs:
                kept, other = (set(select(f, Budget(budget)).indices.tolist()) for f in pair)
                changes.append(100 * len(kept - other) / budget)
            shown.append(f"{sum(changes) / len(changes):.1f} ({max(changes):.0f})")
        print(f"  {name:12}", " / ".join(shown))


if __name__ == "__main__":
    main()
