# SPDX-License-Identifier: Apache-2.0
"""What planning counts of a model, beside what its family makes of an image."""

import importlib

import numpy as np
import pytest

from svd_vlm_ros.models import find_sizes
from svd_vlm_ros.models.interface import ModelOptions
from svd_vlm_ros.models.registry import family_of, model_types
from svd_vlm_ros.planning.configurations import FAMILIES

SHAPES = ((480, 640), (720, 1280), (640, 640), (900, 300), (40, 50))
RANDOM = [
    name
    for kind in model_types()
    if kind != "llava"  # one size for every image
    for name in importlib.import_module(f"svd_vlm_ros.models.{kind}").FAMILY.random_models
]


def test_planning_knows_every_family_that_runs():
    assert set(model_types()) <= set(FAMILIES)


@pytest.mark.parametrize("name", RANDOM)
def test_an_image_is_planned_as_it_is_prepared(name):
    family, sizes = family_of(name), find_sizes(name)
    images = family.image_processor(None, family.random_config(name), ModelOptions())
    assert sizes.view().tokens == images.tokens
    for shape in SHAPES:
        framing = images(np.zeros((*shape, 3), np.uint8), images.aspects[0]).framing
        assert sizes.view(shape).tokens == framing.patches, shape
