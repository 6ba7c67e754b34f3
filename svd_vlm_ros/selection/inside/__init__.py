# SPDX-License-Identifier: Apache-2.0
"""Selectors that act inside the language model, between its layers, for one question each."""

from __future__ import annotations

from svd_vlm_ros.selection.inside.atp import AdaptiveTokenPruning
from svd_vlm_ros.selection.inside.fastv import FastV
from svd_vlm_ros.selection.inside.interface import Kept, LayerPlan, LayerSelector, View
from svd_vlm_ros.selection.inside.pyramiddrop import PyramidDrop
from svd_vlm_ros.selection.inside.sparsevlm import SparseVLM

__all__ = ["SELECTORS", "Kept", "LayerPlan", "LayerSelector", "View"]

# A new selector is one line here.
SELECTORS: tuple[type[LayerSelector], ...] = (FastV, PyramidDrop, SparseVLM, AdaptiveTokenPruning)
