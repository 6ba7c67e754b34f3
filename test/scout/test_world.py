# SPDX-License-Identifier: Apache-2.0
"""The drawn world: the same seed gives the same scene, and every scene keeps the margins that its
questions rely on.
"""

import json
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from svd_vlm_ros.scout.drive import FIRST_SEED, LENGTH, STRETCH, drive
from svd_vlm_ros.scout.render import object_map, panel_box, render
from svd_vlm_ros.scout.training.common import training_seed
from svd_vlm_ros.scout.world import (
    HELD_OUT_SEEDS,
    KINDS,
    PALETTE,
    SIZE,
    clear_count,
    clear_order,
    clear_path_state,
    clear_side,
    sample_scene,
    scene_from_truth,
    truth,
)

seeds = st.integers(0, 2**31)


@given(seeds)
def test_a_scene_is_unambiguous(seed):
    scene = sample_scene(seed)
    assert 1 <= len(scene.objects) <= 6
    assert all(clear_side(thing) for thing in scene.objects)
    assert all(clear_order(a, b) for a, b in combinations(scene.objects, 2))
    assert clear_path_state(scene)
    assert clear_count(scene)
    assert all(thing.color in PALETTE[thing.kind] for thing in scene.objects)
    assert [o.base for o in scene.objects] == sorted(o.base for o in scene.objects)


@given(seeds)
def test_truth_can_be_read_back(seed):
    scene = sample_scene(seed)
    assert scene_from_truth(json.loads(json.dumps(truth(scene)))) == scene


def test_half_of_the_paths_are_clear_and_everything_occurs():
    scenes = [sample_scene(seed) for seed in range(400)]
    assert 160 < sum(scene.path_clear for scene in scenes) < 240
    assert {thing.kind for scene in scenes for thing in scene.objects} == set(KINDS)
    assert {scene.ground for scene in scenes} == {"grass", "gravel", "asphalt", "sand", "snow"}
    assert {scene.sky for scene in scenes} == {"clear", "overcast", "dusk"}


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_an_image_is_a_function_of_its_scene(seed):
    scene = sample_scene(seed)
    image = render(scene)
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, render(scene))
    assert not np.array_equal(image, render(sample_scene(seed + 1)))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_pixels_agree_with_what_the_scene_says(seed):
    """Side, nearness and the clear path, read off the pixels of the object map alone."""
    scene = sample_scene(seed)
    shown = object_map(scene)
    for index, thing in enumerate(scene.objects):
        rows, columns = np.nonzero(shown == index)
        assert len(rows) > 60, "an object can be seen"
        assert abs(rows.max() - min(thing.base, SIZE - 1)) < 3 or any(
            other.base > thing.base for other in scene.objects
        )
        if thing.kind == "sign":
            x0, y0, x1, y1 = (round(v) for v in panel_box(thing))
            panel = shown[max(0, y0 + 1) : y1 - 1, max(0, x0 + 1) : x1 - 1]
            assert (panel == index).mean() > 0.95, "nothing hides a number"
        whole = columns.min() > 1 and columns.max() < SIZE - 2
        alone = len(scene.objects) == 1
        if whole and alone:
            middle = (columns.min() + columns.max()) / 2
            assert thing.side == ("left", "center", "right")[int(middle * 3 / SIZE)]


def test_seeds_of_training_evaluation_and_drive_are_apart():
    used = [training_seed(w, s, b) for w in range(4) for s in (0, 10**6, 10**9) for b in (1, 77)]
    assert max(used) < HELD_OUT_SEEDS.start
    assert HELD_OUT_SEEDS.stop <= FIRST_SEED


def test_the_drive_brings_objects_nearer_and_no_image_twice():
    times = np.arange(0, STRETCH, 0.5)
    scenes = [drive(float(t), seed=3) for t in times]
    for thing in range(len(scenes[0].objects)):
        bases = [scene.objects[thing].base for scene in scenes]
        scales = [scene.objects[thing].scale for scene in scenes]
        assert bases == sorted(bases)
        assert scales == sorted(scales)
    assert drive(1.0) != drive(STRETCH + 1.0)
    assert truth(drive(2.0))["objects"] == truth(drive(2.0 + LENGTH))["objects"]
    images = [render(drive(t)) for t in (0.0, 0.033, 0.067)]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[1], images[2])
