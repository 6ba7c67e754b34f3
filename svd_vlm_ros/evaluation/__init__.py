# SPDX-License-Identifier: Apache-2.0
"""Selectors compared: the same model, the same images, the same questions, scored as published.

A task (`tasks`) is a list of questions about images with their true answers; a cell is one way to
answer them (precision, selector, tokens, condition). `runner` fills the cells, one JSON line an
answer (`records`), `results` counts, `tables` and `report` show. No ROS, and no network.
"""
