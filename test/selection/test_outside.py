# SPDX-License-Identifier: Apache-2.0
"""Selectors that are registered from outside of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from svd_vlm_ros.errors import UserError
from svd_vlm_ros.selection import (
    Budget,
    Need,
    Selection,
    VisualFeatures,
    make_selector,
    outside,
    register_selector,
    selector_kind,
    selector_names,
)
from svd_vlm_ros.selection.interface import keep_highest
from svd_vlm_ros.selection.svd import SvdPrune


@dataclass(frozen=True)
class First:
    name: ClassVar[str] = "first"
    needs: ClassVar[frozenset[Need]] = frozenset()
    from_end: bool = False

    def __call__(self, features: VisualFeatures, budget: Budget) -> Selection:
        scores = torch.arange(len(features), 0, -1).double()
        return keep_highest(scores.flip(0) if self.from_end else scores, features, budget)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_registered", {})


def test_a_registered_selector_is_one_of_all() -> None:
    with pytest.raises(UserError, match="There is no selector 'first'"):
        make_selector("first")
    register_selector(First)
    assert selector_names()[-1] == selector_names("before")[-1] == "first"
    assert "first" not in selector_names("inside")
    assert selector_kind("first") == "before"
    features = VisualFeatures(torch.ones(6, 4), (2, 3))
    assert make_selector("first")(features, Budget(2)).indices.tolist() == [0, 1]
    assert make_selector("first", from_end=True)(features, Budget(2)).indices.tolist() == [4, 5]
    with pytest.raises(UserError, match="has no option 'depth': its options are from_end"):
        make_selector("first", depth=1)


def test_a_name_of_our_own_stays_ours() -> None:
    class Other(First):
        name = "svd"

    register_selector(Other)
    assert isinstance(make_selector("svd"), SvdPrune)
    assert selector_names().count("svd") == 1


def test_what_is_no_selector_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    point = outside.EntryPoint("odd", "collections:OrderedDict", outside.GROUP)
    monkeypatch.setattr(outside, "_entry_points", lambda: {"odd": point})
    assert "odd" in selector_names()
    with pytest.raises(UserError, match="is no selector of that name"):
        make_selector("odd")
