# SPDX-License-Identifier: Apache-2.0
"""Cameras: their subscriptions, the newest frame of each, and its conversion."""
