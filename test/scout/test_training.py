# SPDX-License-Identifier: Apache-2.0
"""Scout's training: labels that agree with the pixels, a packed forward pass that equals the plain
one, resumption.
"""

import itertools

import numpy as np
import torch

from svd_vlm_ros.scout.architecture import build
from svd_vlm_ros.scout.labels import (
    ATTRIBUTES,
    GRID,
    PATCH,
    PATCHES,
    attributes,
    patch_labels,
)
from svd_vlm_ros.scout.render import object_map
from svd_vlm_ros.scout.training.asked import IGNORED, Writer, choose_questions, collate_asked
from svd_vlm_ros.scout.training.common import Run, train
from svd_vlm_ros.scout.training.join import AskedImages, accuracy, collate
from svd_vlm_ros.scout.training.language import Oracle, forward_asked, one_each, random_subset
from svd_vlm_ros.scout.training.vision import sparse_choice, tower_features
from svd_vlm_ros.scout.world import COLORS, KINDS, sample_scene


def test_a_patch_that_shows_one_object_is_labelled_with_it():
    for seed in range(30):
        scene = sample_scene(seed)
        labels, shown = patch_labels(scene), object_map(scene)
        for patch in range(PATCHES):
            row, column = divmod(patch, GRID)
            part = shown[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            if (part == part[0, 0]).all() and part[0, 0] >= 0:
                thing = scene.objects[part[0, 0]]
                assert labels.classes[patch, 0] == KINDS.index(thing.kind)
                assert labels.classes[patch, 1] == COLORS.index(thing.color)
                assert labels.classes[patch, 3] == scene.blocks(thing)
        seen = {i for i in range(len(scene.objects)) if (shown == i).sum() > 400}
        assert labels.classes[:, 8].sum() >= len(seen)
        rows = attributes(labels)
        assert rows.shape == (PATCHES, ATTRIBUTES)
        assert np.isfinite(rows).all()


def test_the_packed_forward_pass_equals_one_prompt_after_the_other():
    torch.manual_seed(0)
    model = build().eval()
    language, writer = model.model.language_model, Writer()
    scenes = [sample_scene(seed) for seed in (1, 2, 3)]
    asked = collate_asked(
        [writer.row(choose_questions(s, np.random.default_rng(s.seed), 10)) for s in scenes]
    )
    rows = torch.from_numpy(np.stack([attributes(patch_labels(s))[:40] for s in scenes]))
    tokens = Oracle()(rows)
    prefix = language.embed_tokens(torch.tensor(writer.prefix)).expand(3, -1, -1)
    head = torch.cat((prefix, tokens), dim=1)
    with torch.no_grad():
        packed = forward_asked(language, head, asked)
        for scene in range(3):
            for number in (1, 4, 10):
                mine = asked.segment[scene] == number
                alone = torch.cat(
                    (head[scene : scene + 1], language.embed_tokens(asked.ids[scene][mine])[None]),
                    1,
                )
                plain = language(inputs_embeds=alone).last_hidden_state[0, head.shape[1] :]
                assert torch.allclose(packed[scene][mine], plain, atol=1e-5)
                answer = asked.target[scene][mine]
                assert answer[-1] == IGNORED
                assert answer[-2] == 2, "the answer ends with the end token"


def test_features_are_layer_minus_two_of_transformers():
    model = build().eval()
    pixels = torch.randn(2, 3, 336, 336)
    tower = model.model.vision_tower
    with torch.no_grad():
        ours = tower_features(tower, pixels)
        theirs = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_subsets_are_sorted_and_of_the_right_size():
    content = torch.randn(4, PATCHES, 12)
    for count in (1, 16, 400, PATCHES, 900):
        keep = random_subset(content, count)
        assert keep.shape == (4, min(count, PATCHES))
        assert (keep.diff(dim=1) > 0).all()
    assert not torch.equal(random_subset(content, 16), random_subset(content, 16))
    rows = torch.from_numpy(np.stack([attributes(patch_labels(sample_scene(s))) for s in range(3)]))
    keep = one_each(rows)
    for scene in range(3):
        anchors = set(np.flatnonzero(patch_labels(sample_scene(scene)).classes[:, 8]))
        assert anchors <= set(keep[scene].tolist())
    classes = torch.from_numpy(np.stack([patch_labels(sample_scene(s)).classes for s in range(2)]))
    chosen = sparse_choice(classes, 200)
    things = (classes[0, :, 0] < len(KINDS)).nonzero().flatten().tolist()
    assert set(things) <= set(chosen[0].tolist())


def test_a_stage_resumes_from_its_checkpoint(tmp_path):
    shares = []

    def run_stage():
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 1)

        def step(batch, share):
            shares.append(share)
            return layer(batch).square().mean(), {"one": 1.0}

        run = Run(tmp_path, 0.01, 0, 0, torch.device("cpu"))
        before = layer.weight.detach().clone()
        train("toy", run, {"l": layer}, {"l": 1e-3}, itertools.repeat(torch.ones(2, 4)), step)
        return before, layer.weight.detach()

    fresh, trained = run_stage()
    assert shares
    assert not torch.equal(trained, fresh)
    shares.clear()
    _, resumed = run_stage()
    assert shares == [], "its time was used up"
    assert torch.equal(resumed, trained)


def test_accuracy_counts_whole_answers():
    torch.manual_seed(0)
    model = build().eval()
    stream = iter(AskedImages(5))
    batch = collate([next(stream) for _ in range(2)])
    found = accuracy(model, [batch], Writer().prefix, torch.device("cpu"))
    assert found["all"] < 0.2, "random weights answer nothing"
