# SPDX-License-Identifier: Apache-2.0
"""Selectors that act inside the language model, between its layers, for one question each."""

from __future__ import annotations

from svd_vlm_ros.selection.inside.interface import Kept, LayerPlan, LayerSelector, View

__all__ = ["Kept", "LayerPlan", "LayerSelector", "View"]
